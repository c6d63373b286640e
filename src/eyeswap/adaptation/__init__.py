"""Adapting backbones to detection, segmentation and, as their control, classification: one recipe for all families."""
