"""Swap the vision encoder of a VLM, keep everything else fixed, and measure what the encoder did."""
