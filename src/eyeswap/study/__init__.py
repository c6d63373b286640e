"""Carry a study out: its data, tokens, training, evaluation; here, on many machines, or through Slurm."""
