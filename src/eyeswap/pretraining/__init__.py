"""Pretraining of the miniature models: backbones on classification, the LLM on text."""
