"""Post-training of an image generator by reinforcement: GRPO on ids."""
