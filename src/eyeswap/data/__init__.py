"""Data sets: instruction files, official benchmark files, and the embedded digits."""
