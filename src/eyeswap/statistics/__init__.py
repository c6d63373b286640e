"""Statistics of scores: what is resampled, and what follows for scores, pairs, ranks and predictors.

Pure arithmetic on arrays of scores, images and seeds; what a study or a benchmark is, nothing here knows.
"""
