"""`python -m toklip_jax.convert`: PyTorch weights in, PyTorch weights out."""
