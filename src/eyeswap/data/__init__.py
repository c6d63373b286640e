"""Data: official formats, the embedded data set, the training order, the visual-token cache."""
