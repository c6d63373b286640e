"""Running a study: data, visual tokens, training and evaluation, on one machine, on several, or through Slurm."""
