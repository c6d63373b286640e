"""The study's released checkpoints, read and written."""
