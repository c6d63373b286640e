"""Statistics of scores: resampling, and what follows from it for scores, pairs of arms, ranks and predictors.

Pure arithmetic on arrays of scores, images and seeds; nothing here knows what a study or a benchmark is.
"""
