"""Results of finished runs: scores, averages, comparisons, rescoring, archives, and published numbers."""
