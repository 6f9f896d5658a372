"""Training losses: plain forms, and contrast over a batch on many devices."""
