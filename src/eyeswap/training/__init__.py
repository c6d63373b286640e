"""One-stage instruction tuning: batches, loss, optimizer steps on one or many GPUs, and exact resume."""
