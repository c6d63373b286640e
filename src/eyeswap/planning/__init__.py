"""Everything that is known before anything runs: the study file, its runs, what they will take."""
