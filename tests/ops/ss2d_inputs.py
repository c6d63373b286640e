"""Random inputs of SS2D, the same for the same sizes."""

import torch


def drawn(batch=1, height=3, width=5, D=8, R=2, S=1, dtype=torch.float64, spread=1.0):
    """Return the six inputs; with a ``spread`` of 0.3 scans remember some twenty steps, so that a wrong order shows."""
    generator = torch.Generator().manual_seed(height * 100 + width)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    tensors = [
        normal(batch, height, width, D),
        normal(4, R + 2 * S, D) / D**0.5,
        normal(4, D, R) / R**0.5,
        normal(4, D) - 2,
        normal(4 * D, S) * spread,
        normal(4 * D),
    ]
    return [tensor.to(dtype) for tensor in tensors]
