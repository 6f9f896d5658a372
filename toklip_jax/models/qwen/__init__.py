"""The language models Qwen2.5 (arXiv 2412.15115) and Qwen3 (arXiv 2505.09388)."""
