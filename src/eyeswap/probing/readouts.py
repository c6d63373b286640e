"""Readouts: small networks that answer a probe's questions from frozen features, and how they are scored.

Two kinds, for two statements. What the **linear** readout finds is there to be used as it is (Alain and Bengio 2017).
What only the **nonlinear** one finds (one layer of cross-attention over a grid of tokens, a two-layer perceptron on a
single state) is there, but has to be put together first. Scores are cross-validated over images: every question is
answered by a readout that has seen neither the image nor any other question about it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from eyeswap.evaluation.boxes import iou
from eyeswap.probing.questions import Question, Task

Kind = Literal["linear", "nonlinear"]
KINDS: tuple[Kind, ...] = get_args(Kind)
IOU_THRESHOLD = 0.5
_WIDTH, _HEADS = 64, 4  # of the cross-attention
_RATES: dict[Kind, float] = {"linear": 3e-2, "nonlinear": 3e-3}  # of AdamW, falling along a half-cosine
_USUAL_COUNT = 3.0  # where the readout of a count begins
# Images in a step, with all questions about them, so that tokens are mapped once an image.
_IMAGES: dict[Kind, int] = {"linear": 128, "nonlinear": 48}
_FREQUENCIES = 4  # of sine and cosine positions, per axis


def token_centres(rows: int, columns: int) -> Tensor:
    """Return the centres of a grid of tokens in 0..1 of the canvas, ``[N, 2]`` as ``(x, y)``."""
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return torch.stack([(x.flatten() + 0.5) / columns, (y.flatten() + 0.5) / rows], dim=1)


@dataclass(frozen=True)
class Features:
    """What one site says about every question.

    Attributes:
        values: ``[I, N, D]`` for a grid of ``N`` tokens an image, ``[Q, D]`` for one state a question; float32.
        grid: rows and columns of the tokens; None for states.
    """

    values: Tensor
    grid: tuple[int, int] | None

    @property
    def positions(self) -> Tensor:
        """Centres of the tokens in 0..1 of the canvas, ``[N, 2]`` as ``(x, y)``."""
        if self.grid is None:
            raise ValueError("states have no positions")
        return token_centres(*self.grid)


@dataclass(frozen=True)
class Batch:
    """Questions as tensors.

    Attributes:
        row: ``[Q]``, the row of each question's features: its image's for a grid of tokens, its own for states.
        category: ``[Q]``.
        box: ``[Q, 4]`` in 0..1 of the canvas.
        label: ``[Q]``.
    """

    row: Tensor
    category: Tensor
    box: Tensor
    label: Tensor

    @classmethod
    def of(cls, questions: Sequence[Question], by_image: bool) -> Batch:
        """Collect the labels of questions; features are one row an image, or one a question."""
        return cls(
            torch.tensor([question.image for question in questions]) if by_image else torch.arange(len(questions)),
            torch.tensor([question.category for question in questions]),
            torch.tensor([question.box or (0.0, 0.0, 0.0, 0.0) for question in questions], dtype=torch.float32),
            torch.tensor([question.label for question in questions]),
        )

    @property
    def slot(self) -> Tensor:
        """How many earlier questions share a question's row, ``[Q]``."""
        order = self.row.argsort(stable=True)
        counts = self.row.bincount()
        slot = torch.empty_like(self.row)
        slot[order] = torch.arange(len(order)) - (counts.cumsum(0) - counts)[self.row[order]]
        return slot

    def take(self, questions: Tensor) -> tuple[Tensor, Batch]:
        """Return the feature rows ``[r]`` that some questions ``[q]`` need, and those questions with rows into them."""
        rows, row = self.row[questions].unique(return_inverse=True)
        return rows, Batch(row, self.category[questions], self.box[questions], self.label[questions])


def num_outputs(task: Task, num_categories: int) -> int:
    """Return how many numbers a readout gives for one question."""
    return {"there": 1, "which": num_categories, "how many": 1, "where": 4}[task]


class LinearGrid(nn.Module):
    """A linear map of tokens ``[I, N, D]``: of their mean, of the one at the place, or of each as "part of it".

    For ``where`` every token says how much it belongs to an object of the category; the box is the extent of those
    that say yes (of the surest one if none does).
    """

    def __init__(self, task: Task, width: int, num_categories: int, features: Features) -> None:
        super().__init__()
        self.task = task
        outputs = num_categories if task in ("there", "where") else num_outputs(task, num_categories)
        self.scale = nn.BatchNorm1d(width, affine=False)  # a mean over tokens varies far less than one token
        self.linear = nn.Linear(width, outputs)
        self.positions = features.positions
        self.cell = (1 / features.grid[1], 1 / features.grid[0]) if features.grid else (1.0, 1.0)

    def forward(self, tokens: Tensor, batch: Batch) -> Tensor:
        """Return ``[Q, outputs]``; for ``where`` the logit of every token, ``[Q, N]``."""
        if self.task == "which":
            return self._linear(self.scale(tokens[batch.row, self._nearest(batch.box)]))
        if self.task == "where":
            logits = self._linear(tokens).mT.flatten(0, 1)  # [I C, N]
            return logits.index_select(0, batch.row * self.linear.out_features + batch.category)
        pooled = self._linear(self.scale(tokens.mean(dim=1)[batch.row]))
        return pooled.gather(1, batch.category[:, None]) if self.task == "there" else pooled

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Return the mean loss of ``[Q, outputs]``; for ``where`` the cross-entropy of "this token lies in the box"."""
        if self.task != "where":
            return _loss(self.task, outputs, batch)
        return F.binary_cross_entropy_with_logits(outputs, self._inside(batch.box))

    def boxes(self, outputs: Tensor) -> Tensor:
        """Return the box of each question, ``[Q, 4]``, from the logits of its tokens, ``[Q, N]``."""
        chosen = (outputs > 0) | (outputs == outputs.amax(dim=1, keepdim=True))  # [Q, N]
        low = torch.where(chosen[..., None], self.positions, torch.inf).amin(dim=1)
        high = torch.where(chosen[..., None], self.positions, -torch.inf).amax(dim=1)
        half = torch.tensor(self.cell) / 2
        return torch.cat([low - half, high + half], dim=1)

    def _linear(self, values: Tensor) -> Tensor:
        result: Tensor = self.linear(values)
        return result

    def _nearest(self, box: Tensor) -> Tensor:
        centre = (box[:, :2] + box[:, 2:]) / 2
        return torch.cdist(centre, self.positions).argmin(dim=1)

    def _inside(self, box: Tensor) -> Tensor:
        """Return which token centres lie in each box, ``[Q, N]``; the nearest one where none does."""
        above = (self.positions >= box[:, None, :2]).all(-1)
        inside = above & (self.positions <= box[:, None, 2:]).all(-1)
        nearest = F.one_hot(self._nearest(box), len(self.positions)).bool()
        return torch.where(inside.any(dim=1, keepdim=True), inside, nearest).float()


class AttentiveGrid(nn.Module):
    """One layer of cross-attention: the question is the query, tokens with their positions are keys and values."""

    def __init__(self, task: Task, width: int, num_categories: int, features: Features) -> None:
        super().__init__()
        self.task = task
        positions = _waves(features.positions)  # [N, P]
        self.positions = positions
        self.token = nn.Linear(width + positions.shape[1], _WIDTH)
        self.question = nn.Embedding(num_categories, _WIDTH) if task in ("there", "where") else None
        self.place = nn.Linear(2 * positions.shape[1], _WIDTH) if task == "which" else None
        self.query = nn.Parameter(torch.zeros(_WIDTH))
        self.key_value = nn.Linear(_WIDTH, 2 * _WIDTH)
        self.sought, self.found = nn.Linear(_WIDTH, _WIDTH), nn.Linear(_WIDTH, _WIDTH)
        # where attention looks is an answer too: its mean position goes along with what it found
        self.output = _perceptron(_WIDTH + positions.shape[1], num_outputs(task, num_categories))

    def forward(self, tokens: Tensor, batch: Batch) -> Tensor:
        """Return ``[Q, outputs]`` of tokens ``[I, N, D]``."""
        positions = self.positions.expand(len(tokens), -1, -1)
        mapped = self.key_value(self.token(torch.cat([tokens, positions], dim=-1)))  # [I, N, 2 W]
        keys, values = (_by_head(part) for part in mapped.chunk(2, dim=-1))  # [I, H, N, w]
        query = self.query.expand(len(batch.row), -1)  # [Q, W]
        if self.question is not None:
            query = query + self.question(batch.category)
        if self.place is not None:
            query = query + self.place(_waves(batch.box.view(-1, 2)).view(len(query), -1))
        slot = batch.slot
        sought = query.new_zeros(len(tokens), int(slot.max()) + 1, _WIDTH)  # questions by image, with room for most
        sought = _by_head(sought.index_put((batch.row, slot), self.sought(query)))  # [I, H, S, w]
        weights = (sought @ keys.mT / sought.shape[-1] ** 0.5).softmax(dim=-1)  # [I, H, S, N]
        found = self.found((weights @ values).transpose(1, 2)[batch.row, slot].flatten(1))  # [Q, W]
        looked_at = (weights.mean(dim=1) @ self.positions)[batch.row, slot]  # [Q, P]
        outputs: Tensor = self.output(torch.cat([query + found, looked_at], dim=-1))
        if self.task != "where":
            return outputs
        centre = looked_at[:, :2] + 0.5 * outputs[:, :2].tanh()  # begins where it looks
        return torch.cat([centre.clamp(1e-3, 1 - 1e-3).logit(), outputs[:, 2:]], dim=1)

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Return the mean loss of outputs ``[Q, outputs]``."""
        return _loss(self.task, outputs, batch)

    def boxes(self, outputs: Tensor) -> Tensor:
        """Return boxes ``[Q, 4]`` from centres and sizes ``[Q, 4]``."""
        return _corners(outputs)


class StateReadout(nn.Module):
    """A linear map, or a perceptron, of one state a question ``[Q, D]``; the question is in the state."""

    def __init__(self, task: Task, width: int, num_categories: int, kind: Kind) -> None:
        super().__init__()
        self.task = task
        outputs = num_outputs(task, num_categories)
        self.network = nn.Linear(width, outputs) if kind == "linear" else _perceptron(width, outputs)

    def forward(self, states: Tensor, batch: Batch) -> Tensor:
        """Return ``[Q, outputs]``."""
        outputs: Tensor = self.network(states[batch.row])
        return outputs

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Return the mean loss of outputs ``[Q, outputs]``."""
        return _loss(self.task, outputs, batch)

    def boxes(self, outputs: Tensor) -> Tensor:
        """Return boxes ``[Q, 4]`` from centres and sizes ``[Q, 4]``."""
        return _corners(outputs)


Readout = LinearGrid | AttentiveGrid | StateReadout


def build(kind: Kind, task: Task, features: Features, num_categories: int) -> Readout:
    """Return an untrained readout of a site for a task."""
    width = features.values.shape[-1]
    if features.grid is None:
        return StateReadout(task, width, num_categories, kind)
    return (LinearGrid if kind == "linear" else AttentiveGrid)(task, width, num_categories, features)


def cross_validate(
    kind: Kind,
    task: Task,
    features: Features,
    questions: Sequence[Question],
    num_categories: int,
    *,
    folds: int = 3,
    steps: int = 250,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Return the score of every question, each answered by a readout that was fitted without its image.

    Args:
        kind: of the readout.
        task: what is asked.
        features: of all images, or of all these questions.
        questions: the task's questions.
        num_categories: of the images' objects.
        folds: parts that the images are cut into.
        steps: of AdamW, the questions about some images each.
        seed: of folds, starting weights and batches.

    Returns:
        ``[Q]``, 1 for right and 0 for wrong; a box is right from an IoU of 0.5.
    """
    batch = Batch.of(questions, by_image=features.grid is not None)
    image = torch.tensor([question.image for question in questions])
    rng = np.random.default_rng(seed)
    images = np.unique(image.numpy())
    fold_of_image = dict(zip(rng.permutation(images).tolist(), np.arange(len(images)) % folds, strict=True))
    fold = torch.tensor([int(fold_of_image[number]) for number in image.tolist()])
    scores = np.zeros(len(questions))
    for number in range(folds):
        train, test = (
            [torch.where(image == each)[0] for each in image[chosen].unique()]
            for chosen in (fold != number, fold == number)
        )
        if train and test:
            predictions = _fit_and_predict(kind, task, features, batch, train, test, num_categories, steps, seed)
            asked = torch.cat(test)
            scores[asked.numpy()] = _scored(task, predictions, batch.take(asked)[1])
    return scores


def _fit_and_predict(
    kind: Kind, task: Task, features: Features, batch: Batch, train: Sequence[Tensor], test: Sequence[Tensor],
    num_categories: int, steps: int, seed: int,
) -> Tensor:  # fmt: skip
    """Fit on some images and answer about others; ``train`` and ``test`` are the questions about each image."""

    def apply(images: Sequence[Tensor]) -> tuple[Tensor, Batch]:
        rows, part = batch.take(torch.cat(list(images)))
        return readout((features.values[rows] - mean) / scale, part), part

    mean, scale = _standard(features.values[batch.take(torch.cat(list(train)))[0]])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        readout = build(kind, task, features, num_categories).train()
        optimizer = torch.optim.AdamW(readout.parameters(), lr=_RATES[kind], weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in range(steps):
            outputs, part = apply([train[index] for index in torch.randperm(len(train))[: _IMAGES[kind]]])
            loss = readout.loss(outputs, part)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    readout.eval()
    with torch.no_grad():
        parts = [test[start : start + _IMAGES[kind]] for start in range(0, len(test), _IMAGES[kind])]
        outputs = torch.cat([apply(part)[0] for part in parts])
        return readout.boxes(outputs) if task == "where" else outputs


def _standard(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and s.d. of each channel over all training tokens."""
    flat = values.flatten(0, -2)
    return flat.mean(dim=0), flat.std(dim=0).clamp_min(1e-6)


def _loss(task: Task, outputs: Tensor, batch: Batch) -> Tensor:
    if task == "there":
        return F.binary_cross_entropy_with_logits(outputs[:, 0], batch.label.float())
    if task == "where":
        corners = _corners(outputs)
        return F.l1_loss(corners, batch.box) + (1 - _overlap(corners, batch.box)).mean()
    if task == "how many":
        return F.smooth_l1_loss(outputs[:, 0] + _USUAL_COUNT, batch.label.float())
    return F.cross_entropy(outputs, batch.label)


def _scored(task: Task, predictions: Tensor, batch: Batch) -> NDArray[np.float64]:
    if task == "where":
        pairs = zip(predictions.tolist(), batch.box.tolist(), strict=True)
        return np.array([float(iou(box, true) >= IOU_THRESHOLD) for box, true in pairs])
    guesses = {
        "there": predictions[:, 0] > 0,
        "how many": (predictions[:, 0] + _USUAL_COUNT).round(),
        "which": predictions.argmax(dim=1),
    }
    return (guesses[task].long() == batch.label).double().numpy()


def constant_scores(task: Task, questions: Sequence[Question]) -> NDArray[np.float64]:
    """Return the scores ``[Q]`` of the best constant answer: the commonest label, or the median box."""
    batch = Batch.of(questions, by_image=True)
    if task == "where":
        return _scored(task, batch.box.median(dim=0).values.expand(len(questions), 4), batch)
    commonest = batch.label.mode().values
    return (batch.label == commonest).double().numpy()


def _by_head(values: Tensor) -> Tensor:
    """Turn ``[I, n, W]`` into ``[I, H, n, w]``."""
    heads: Tensor = values.unflatten(-1, (_HEADS, -1))
    return heads.transpose(1, 2)


def _perceptron(width: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * _WIDTH), nn.GELU(), nn.Linear(2 * _WIDTH, outputs))


def _corners(outputs: Tensor) -> Tensor:
    """Turn raw centres and sizes ``[Q, 4]`` into ``(x0, y0, x1, y1)`` in 0..1."""
    centre, size = outputs[:, :2].sigmoid(), outputs[:, 2:].sigmoid()
    return torch.cat([centre - size / 2, centre + size / 2], dim=1)


def _overlap(first: Tensor, second: Tensor) -> Tensor:
    """Return the IoU of paired boxes, ``[Q]``."""
    low, high = torch.maximum(first[:, :2], second[:, :2]), torch.minimum(first[:, 2:], second[:, 2:])
    shared = (high - low).clamp_min(0).prod(dim=1)
    areas = [(box[:, 2:] - box[:, :2]).clamp_min(0).prod(dim=1) for box in (first, second)]
    return shared / (areas[0] + areas[1] - shared).clamp_min(1e-9)


def _waves(positions: Tensor) -> Tensor:
    """Return positions ``[..., 2]`` in 0..1 with sines and cosines of them, ``[..., 2 + 4 F]``."""
    angles = positions[..., None] * math.pi * 2.0 ** torch.arange(_FREQUENCIES)  # [..., 2, F]
    waves = torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(-2)
    return torch.cat([positions, waves], dim=-1)
