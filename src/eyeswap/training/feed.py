"""Feed the loop: conversations become batches, in worker processes where images have to be decoded.

Batches are made in the order of the steps, a few ahead of training. Where they come from is a function of the step
alone, so a resumed run meets the same ones.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.utils.data import DataLoader, Dataset

from eyeswap.data.collate import Batch, pack, pad
from eyeswap.errors import EyeswapError
from eyeswap.training.examples import TrainingData
from eyeswap.training.passes import Cutter, Pass


@dataclass(frozen=True)
class Layout:
    """How conversations become a batch.

    Attributes:
        image_id: stands for a visual token.
        bos_first: whether conversations begin with a beginning-of-sequence token.
        pad_id: fills shorter rows.
        packs: one row for all, instead of one each.
    """

    image_id: int
    bos_first: bool
    pad_id: int
    packs: bool


class _Batches(Dataset[Batch | EyeswapError]):
    """Makes the batch of a pass when it is asked for it."""

    def __init__(self, data: TrainingData, layout: Layout) -> None:
        self._data, self._layout = data, layout

    def __getitem__(self, rows: tuple[int, ...]) -> Batch | EyeswapError:
        """Return the batch of some conversations, or what is wrong with them: raised here, it would lose its form."""
        try:
            return self._make(rows)
        except EyeswapError as error:
            return error

    def _make(self, rows: tuple[int, ...]) -> Batch:
        data, layout = self._data, self._layout
        encoded = [data.conversations[row] for row in rows]
        images = [data.images[row] for row in rows]
        seen = [image for image in images if image is not None]
        num_visual = [0 if image is None else data.source.num_tokens for image in images]
        if layout.packs:
            batch = pack(encoded, num_visual, layout.image_id, layout.bos_first)
        else:
            batch = pad(encoded, num_visual, layout.image_id, layout.bos_first, layout.pad_id)
        return Batch(**{**vars(batch), "visual": data.source.read(seen) if seen else None})


class Feed:
    """The steps of one process, each a list of passes with their batches.

    Args:
        data: what is trained on.
        layout: of batches.
        cutter: cuts global batches into passes.
        rank: number of this process.
        num_workers: processes that make batches; 0 makes them here.
    """

    def __init__(self, data: TrainingData, layout: Layout, cutter: Cutter, rank: int, num_workers: int) -> None:
        self._data, self._cutter, self._rank = data, cutter, rank
        self._batches, self._num_workers = _Batches(data, layout), num_workers

    def steps(self, first: int) -> Iterator[list[tuple[Pass, Batch]]]:
        """Yield the passes of each step from ``first`` on.

        Raises:
            DataError: if an image cannot be read.
        """
        ahead = DataLoader(
            self._batches,
            batch_size=None,
            sampler=_Ahead(self, first),
            num_workers=self._num_workers,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # its own: the run's random numbers stay untouched
        )
        with _silent_tokenizers():
            made = iter(ahead)  # workers begin here
        for step in range(first, len(self._data.order)):
            yield [(one, _raised(next(made))) for one in self.passes(step)]

    def passes(self, step: int) -> list[Pass]:
        """Return the passes of this process in one step."""
        return [turn[self._rank] for turn in self._cutter.cut(self._data.order[step])]


@contextlib.contextmanager
def _silent_tokenizers() -> Iterator[None]:
    """Keep the tokenizers library from warning of forks; workers use none. Afterwards forks are safe as before."""
    name = "TOKENIZERS_PARALLELISM"
    before = os.environ.get(name)
    os.environ.setdefault(name, "true")
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]


def _raised(made: Batch | EyeswapError) -> Batch:
    if isinstance(made, EyeswapError):
        raise made
    return made


class _Ahead:
    """The rows of every pass from a step on; what is ahead of training is cut once more, which costs nothing."""

    def __init__(self, feed: Feed, first: int) -> None:
        self._feed, self._first = feed, first

    def __iter__(self) -> Iterator[tuple[int, ...]]:
        for step in range(self._first, len(self._feed._data.order)):
            yield from (one.rows for one in self._feed.passes(step))
