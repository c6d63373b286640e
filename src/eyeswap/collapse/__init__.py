"""Judge whether localization works at all, and what cures it."""
