"""Training a multimodal language model on conversations about images."""
