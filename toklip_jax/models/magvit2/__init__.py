"""Open-MAGVIT2's tokenizers of sign codes (arXiv 2409.04410)."""
