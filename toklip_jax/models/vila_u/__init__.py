"""VILA-U's tokenizer (arXiv 2409.04429): SigLIP, a residual quantiser, a convolutional decoder."""
