"""UniTok (arXiv 2502.20321): several codebooks between a ViTamin encoder and its mirror."""
