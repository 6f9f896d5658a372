"""Training an image generator on ids."""
