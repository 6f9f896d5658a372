"""FLOPs of a program, and what chips can do."""
