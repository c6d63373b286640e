"""Vision backbones: one module per family, a catalog of all variants as data, and the code that loads them.

Start from `catalog.entry` or `weights.load_backbone`; both give a `base.VisionBackbone`.
"""
