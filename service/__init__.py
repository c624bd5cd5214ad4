"""The node: receives, remembers, answers. Never imports torch, models or worker."""
