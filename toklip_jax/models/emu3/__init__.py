"""Emu3's tokenizer of images and videos (arXiv 2409.18869)."""
