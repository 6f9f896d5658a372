"""IBQ, index backpropagation quantization (arXiv 2412.02692)."""
