"""Doors to other people's tools; each is optional and imports its tool only when that tool asks for it."""
