"""The fixed order of the training examples: the same batches for every arm, whatever its speed or hardware.

Batches are a pure function of (number of examples, batch size, epochs, seed); a run records their digest, and
`eyeswap audit` compares the digests of the arms.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt


def batch_order(
    num_examples: int, batch_size: int, num_epochs: int, seed: int, max_steps: int | None = None
) -> npt.NDArray[np.int64]:
    """Return the rows of every global batch, in order of training.

    Each epoch is one permutation of all examples; a last partial batch is filled with the first rows of the
    same permutation, as the published sampler does.

    Args:
        num_examples: size of the training set.
        batch_size: examples in one optimiser step.
        num_epochs: passes over the data.
        seed: seed of the permutations; epoch ``e`` uses ``seed + e``.
        max_steps: cut after this many batches.

    Returns:
        ``[steps, batch_size]`` row numbers.
    """
    batches = []
    for epoch in range(num_epochs):
        permutation = np.random.default_rng(seed + epoch).permutation(num_examples)
        missing = -num_examples % batch_size
        filled = np.concatenate([permutation, np.resize(permutation, missing)])
        batches.append(filled.reshape(-1, batch_size))
    return np.concatenate(batches)[:max_steps].astype(np.int64)


def order_digest(order: npt.NDArray[np.int64], example_ids: list[str]) -> str:
    """Return the sha256 (hex) of a batch order and of the ids it refers to."""
    hasher = hashlib.sha256(np.ascontiguousarray(order).tobytes())
    hasher.update("\n".join(example_ids).encode())
    return hasher.hexdigest()
