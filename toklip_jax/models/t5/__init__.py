"""T5's text encoder (arXiv 1910.10683), which LlamaGen's generator of captions reads."""
