"""Reading and writing the study's released checkpoints."""
