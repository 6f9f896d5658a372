"""SigLIP 2 (arXiv 2502.14786): TokLIP's teacher, and its text tower."""
