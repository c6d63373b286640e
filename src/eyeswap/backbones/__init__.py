"""Vision backbones: one file a family, a catalog of every variant as data, and the door that loads them.

The doors are `catalog.entry` and `weights.load_backbone`; both lead to a `base.VisionBackbone`.
"""
