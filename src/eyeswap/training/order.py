"""The fixed order of the training examples: the same batches for every arm, on any hardware.

Batches are a pure function of the examples, the batch size, the number of epochs and the seed. How a batch is divided
among GPUs and passes is decided later (`eyeswap.training.batches`). A run records the digest of its batches, and
`eyeswap audit` compares the digests of the arms.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from eyeswap.recipe import Recipe

Rows = npt.NDArray[np.int64]

_PUBLISHED_IMAGE_WORDS = 576  # visual tokens that the published sampler assumes for every backbone


def batch_order(num_examples: int, batch_size: int, num_epochs: int, seed: int, max_steps: int | None = None) -> Rows:
    """Return the rows of every global batch, in order of training, for a plain shuffle of all examples.

    Each epoch is one permutation of all examples; a last partial batch is filled with the first rows of the
    same permutation.

    Args:
        num_examples: size of the training set.
        batch_size: examples per optimizer step.
        num_epochs: passes over the data.
        seed: seed of the permutations; epoch ``e`` uses ``seed + e``.
        max_steps: keep only this many batches.

    Returns:
        ``[steps, batch_size]`` row numbers.
    """
    batches = []
    for epoch in range(num_epochs):
        permutation = np.random.default_rng(seed + epoch).permutation(num_examples)
        batches.append(_in_batches(permutation, batch_size))
    return np.concatenate(batches)[:max_steps].astype(np.int64)


def split_modality_order(
    has_image: Sequence[bool],
    num_words: Sequence[int],
    batch_size: int,
    num_epochs: int,
    seed: int,
    max_steps: int | None = None,
) -> Rows:
    """Return the rows of every global batch as the published sampler draws them: all with images, or all without.

    An epoch permutes both kinds separately, divides them into batches (a last partial one is filled with the first rows
    of its kind), shuffles the batches of both, and moves the batch with the longest conversation to the front, so that
    a lack of memory shows at once. Parity: the split-modality sampler of Prismatic VLMs, draw for draw. Within a batch
    the longest conversation comes first; the published code then divides it among its GPUs, see `dealt`.

    Args:
        has_image: whether each example has an image.
        num_words: words of each example, see `count_words`.
        batch_size: examples per optimizer step.
        num_epochs: passes over the data.
        seed: seed of the permutations; epoch ``e`` uses ``seed + e``.
        max_steps: keep only this many batches.

    Returns:
        ``[steps, batch_size]`` row numbers.
    """
    is_visual, words = np.asarray(has_image, dtype=bool), np.asarray(num_words, dtype=np.int64)
    kinds = [np.flatnonzero(is_visual), np.flatnonzero(~is_visual)]
    epochs = []
    for epoch in range(num_epochs):
        generator = torch.Generator().manual_seed(seed + epoch)
        permuted = [kind[torch.randperm(len(kind), generator=generator).numpy()] for kind in kinds]
        batches = np.concatenate([_in_batches(kind, batch_size) for kind in permuted if len(kind)])
        longest_first = np.argsort(-words[batches], axis=1, kind="stable")
        batches = np.take_along_axis(batches, longest_first, axis=1)
        batches = batches[torch.randperm(len(batches), generator=generator).numpy()]
        longest = int(np.argmax((words + _PUBLISHED_IMAGE_WORDS * is_visual)[batches].max(axis=1)))
        batches[[0, longest]] = batches[[longest, 0]]
        epochs.append(batches)
    return np.concatenate(epochs)[:max_steps].astype(np.int64)


def dealt(rows: Rows, num_words: Sequence[int], num_gpus: int) -> list[Rows]:
    """Divide a batch among GPUs into shares of equal size and nearly equal length, as published.

    From the longest on, each example goes to the share with the fewest words that is not full.

    Args:
        rows: ``[batch]`` rows of one global batch.
        num_words: words of each example of the training set.
        num_gpus: number of shares; must divide the batch size.
    """
    share_size = len(rows) // num_gpus
    shares: list[list[int]] = [[] for _ in range(num_gpus)]
    lengths = [0.0] * num_gpus
    for row in sorted(rows.tolist(), key=lambda row: num_words[row], reverse=True):
        gpu = lengths.index(min(lengths))
        shares[gpu].append(row)
        lengths[gpu] = lengths[gpu] + num_words[row] if len(shares[gpu]) < share_size else float("inf")
    return [np.array(share, dtype=np.int64) for share in shares]


def published_micro_batches(rows: Rows, num_words: Sequence[int], recipe: Recipe) -> list[list[int]]:
    """Divide a global batch into the micro-batches of the published code, which depend on its number of GPUs.

    The batch is divided among the GPUs (`dealt`), and each GPU splits its share in order, so that its first micro-batch
    holds its longest conversations. Parity: ``SplitModalitySampler`` and the data loader of Prismatic VLMs.

    Args:
        rows: ``[batch]`` rows of one global batch.
        num_words: words of each example of the training set.
        recipe: recipe with ``published_gpus`` and ``micro_batch``.
    """
    shares = dealt(rows, num_words, recipe.published_gpus)
    size = recipe.micro_batch or len(shares[0])
    return [share[start : start + size].tolist() for start in range(0, len(shares[0]), size) for share in shares]


def count_words(messages: Sequence[str]) -> int:
    """Return the length of a conversation as the published sampler counts it: words separated by white space."""
    return sum(len(message.split()) for message in messages)


def order_digest(order: Rows, example_ids: Sequence[str]) -> str:
    """Return the sha256 (hex) of a batch order and of the ids it refers to."""
    hasher = hashlib.sha256(np.ascontiguousarray(order).tobytes())
    hasher.update("\n".join(example_ids).encode())
    return hasher.hexdigest()


def _in_batches(rows: Rows, batch_size: int) -> Rows:
    """Divide rows into batches ``[batches, batch_size]``; the first rows fill up the last batch."""
    missing = -len(rows) % batch_size
    return np.concatenate([rows, np.resize(rows, missing)]).reshape(-1, batch_size)
