"""Estimates what a training step takes on hardware you don't have."""
