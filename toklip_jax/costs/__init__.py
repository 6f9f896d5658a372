"""FLOPs of programs, and peak rates of chips."""
