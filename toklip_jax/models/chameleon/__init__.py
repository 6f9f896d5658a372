"""Chameleon's VQ tokenizer (arXiv 2405.09818)."""
