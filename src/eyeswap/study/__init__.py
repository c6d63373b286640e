"""Studies: what they ask, which runs they need, and what their results mean."""
