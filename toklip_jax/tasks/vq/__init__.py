"""Training a VQ tokenizer by reconstruction."""
