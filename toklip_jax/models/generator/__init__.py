"""The autoregressive image generator: LlamaGen's GPT (arXiv 2406.06525), with TokLIP's tokens."""
