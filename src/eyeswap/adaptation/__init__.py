"""Adapting backbones to dense objectives: detection and segmentation, with one recipe for all families."""
