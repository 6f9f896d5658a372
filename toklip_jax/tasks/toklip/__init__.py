"""Training TokLIP, from images or from a cache."""
