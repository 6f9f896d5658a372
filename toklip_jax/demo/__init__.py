"""The emoji demo: its data, captions, baselines and evaluation, registered on import."""
