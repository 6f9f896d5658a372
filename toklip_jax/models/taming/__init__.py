"""taming-transformers' VQGAN (arXiv 2012.09841)."""
