"""TokLIP (arXiv 2505.05422): a VQ tokenizer, a token encoder on its codes, a text tower."""
