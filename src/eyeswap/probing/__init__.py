"""Readouts of frozen representations: what visual tokens, connector and LLM still know about an image."""
