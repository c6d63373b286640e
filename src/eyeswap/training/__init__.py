"""One-stage instruction tuning: the loop, the optimiser, exact resume."""
