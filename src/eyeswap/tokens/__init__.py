"""Visual tokens of frozen backbones, computed once and kept."""
