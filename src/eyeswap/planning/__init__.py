"""Before anything runs: the study file, its list of runs, and their cost."""
