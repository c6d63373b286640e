"""Prove what was held fixed between runs, and name what was not."""
