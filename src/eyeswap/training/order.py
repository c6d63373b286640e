"""The fixed order of the training examples: the same batches for every arm, whatever its speed or hardware.

Batches are a pure function of the examples, the batch size, the number of epochs and the seed; how many GPUs share a
batch, and in how many passes, comes later (`eyeswap.training.batches`). A run records the digest of its batches, and
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

_PUBLISHED_IMAGE_WORDS = 576  # visual tokens that the published sampler reckons with, whatever the backbone


def batch_order(num_examples: int, batch_size: int, num_epochs: int, seed: int, max_steps: int | None = None) -> Rows:
    """Return the rows of every global batch, in order of training, drawn from all examples alike.

    Each epoch is one permutation of all examples; a last partial batch is filled with the first rows of the
    same permutation.

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
        batches.append(_cut(permutation, batch_size))
    return np.concatenate(batches)[:max_steps].astype(np.int64)


def split_modality_order(
    has_image: Sequence[bool],
    num_words: Sequence[int],
    batch_size: int,
    num_epochs: int,
    seed: int,
    max_steps: int | None = None,
) -> Rows:
    """Return the rows of every global batch as the published sampler draws them: with images, or without.

    An epoch permutes both kinds by themselves, cuts them into batches (a last partial one is filled from the first
    of its kind), shuffles the batches of both, and trains the batch with the longest conversation first, so that a
    lack of memory shows at once. Parity: the split-modality sampler of Prismatic VLMs, draw for draw. Within a batch
    the longest conversation comes first; the published code then deals it out to its GPUs, see `dealt`.

    Args:
        has_image: of each example.
        num_words: words of each example, see `count_words`.
        batch_size: examples in one optimiser step.
        num_epochs: passes over the data.
        seed: seed of the permutations; epoch ``e`` uses ``seed + e``.
        max_steps: cut after this many batches.

    Returns:
        ``[steps, batch_size]`` row numbers.
    """
    seen, words = np.asarray(has_image, dtype=bool), np.asarray(num_words, dtype=np.int64)
    kinds = [np.flatnonzero(seen), np.flatnonzero(~seen)]
    batches = []
    for epoch in range(num_epochs):
        generator = torch.Generator().manual_seed(seed + epoch)
        drawn = [kind[torch.randperm(len(kind), generator=generator).numpy()] for kind in kinds]
        cut = np.concatenate([_cut(kind, batch_size) for kind in drawn if len(kind)])
        ranked = np.argsort(-words[cut], axis=1, kind="stable")
        cut = np.take_along_axis(cut, ranked, axis=1)
        cut = cut[torch.randperm(len(cut), generator=generator).numpy()]
        first = int(np.argmax((words + _PUBLISHED_IMAGE_WORDS * seen)[cut].max(axis=1)))
        cut[[0, first]] = cut[[first, 0]]
        batches.append(cut)
    return np.concatenate(batches)[:max_steps].astype(np.int64)


def dealt(rows: Rows, num_words: Sequence[int], num_hands: int) -> list[Rows]:
    """Deal a batch into hands of equal size and nearly equal length, as published.

    From the longest on, each example goes to the hand with the fewest words that has room.

    Args:
        rows: ``[batch]`` rows of one global batch.
        num_words: words of each example of the training set.
        num_hands: divides the batch size.
    """
    room = len(rows) // num_hands
    hands: list[list[int]] = [[] for _ in range(num_hands)]
    lengths = [0.0] * num_hands
    for row in sorted(rows.tolist(), key=lambda row: num_words[row], reverse=True):
        hand = lengths.index(min(lengths))
        hands[hand].append(row)
        lengths[hand] = lengths[hand] + num_words[row] if len(hands[hand]) < room else float("inf")
    return [np.array(hand, dtype=np.int64) for hand in hands]


def published_micro_batches(rows: Rows, num_words: Sequence[int], recipe: Recipe) -> list[list[int]]:
    """Cut a global batch into the micro-batches of the published code, whose cut depends on its number of GPUs.

    The batch is dealt out to the GPUs (`dealt`), and each GPU cuts its share in order, so that its first micro-batch
    holds its longest conversations. Parity: ``SplitModalitySampler`` and the data loader of Prismatic VLMs.

    Args:
        rows: ``[batch]`` rows of one global batch.
        num_words: words of each example of the training set.
        recipe: its ``published_gpus`` and ``micro_batch``.
    """
    shares = dealt(rows, num_words, recipe.published_gpus)
    size = recipe.micro_batch or len(shares[0])
    return [share[start : start + size].tolist() for start in range(0, len(shares[0]), size) for share in shares]


def count_words(messages: Sequence[str]) -> int:
    """Return the length of a conversation as the published sampler reckons it: words between white space."""
    return sum(len(message.split()) for message in messages)


def order_digest(order: Rows, example_ids: Sequence[str]) -> str:
    """Return the sha256 (hex) of a batch order and of the ids it refers to."""
    hasher = hashlib.sha256(np.ascontiguousarray(order).tobytes())
    hasher.update("\n".join(example_ids).encode())
    return hasher.hexdigest()


def _cut(rows: Rows, batch_size: int) -> Rows:
    """Cut rows into batches ``[batches, batch_size]``; the first rows fill the last one up."""
    missing = -len(rows) % batch_size
    return np.concatenate([rows, np.resize(rows, missing)]).reshape(-1, batch_size)
