"""The Inception v3 whose features FID compares."""
