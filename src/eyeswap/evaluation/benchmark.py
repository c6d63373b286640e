"""The interface of a benchmark: read examples, word the question, score an answer, aggregate a run.

There are two modes. ``study`` reproduces the published study's pipeline to the digit, with its quirks; ``official`` is
the benchmark's own scorer where that differs (VQA v2, VizWiz, GQA, POPE). Scores of single examples are fractions in
0..1, aggregates are percent. A metric that cannot be computed (an empty subset, a missing class) is None with a reason.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from eyeswap.data.formats import Box, Example
from eyeswap.data.official.families import FAMILIES
from eyeswap.data.official.layout import Split
from eyeswap.data.official.subsets import STUDY_SEED, subsample
from eyeswap.errors import DataError

Mode = Literal["study", "official"]
Group = Literal["vqa", "localization"]
AnswerKind = Literal["text", "choice", "box"]
Answer = str | Sequence[float]

MAX_NEW_TOKENS: dict[AnswerKind, int] = {"text": 128, "choice": 1, "box": 128}  # 128 as in the study

Item = TypeVar("Item")


@dataclass(frozen=True)
class Outcome:
    """One scored answer.

    Attributes:
        example: the example.
        answer: the answer as text; for choices, the most probable one.
        score: 0..1.
        invalid: whether the answer is empty, not a box, or not a number.
        box: parsed box in 0..1, for localization.
        iou: IoU with the true box; None if invalid.
        margin: log p(truth) - log p(best other choice), for choices; positive means right.
        probabilities: of the choices, in their order.
    """

    example: Example
    answer: str
    score: float
    invalid: bool = False
    box: Box | None = None
    iou: float | None = None
    margin: float | None = None
    probabilities: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Details:
    """Further metrics of a benchmark, in percent unless they are counts, and the reasons why some are None."""

    values: dict[str, float | None]
    reasons: dict[str, str]


@dataclass(frozen=True)
class Benchmark(ABC):
    """One reported column.

    Attributes:
        name: identifier in studies and file names.
        title: name in tables.
        family: folder below ``<root>/download``.
        num_published: examples of the full set, the weight of this column in the study's averages.
        mode: ``study`` or ``official``.
        group: the average to which it belongs, ``vqa`` or ``localization``.
        metric: name of the metric, for tables.
        iou_threshold: IoU from which a box is right.
    """

    name: str
    title: str
    family: str
    num_published: int
    mode: Mode = "study"

    @property
    def group(self) -> Group:
        """The average to which it belongs."""
        return "vqa"

    @property
    def metric(self) -> str:
        """Name of the metric, for tables."""
        return "accuracy"

    @property
    def iou_threshold(self) -> float:
        """IoU from which a box is right."""
        return 0.5

    @property
    def averages_subsets(self) -> bool:
        """Whether its score is the unweighted mean over its subsets."""
        return False

    @property
    def origin(self) -> str:
        """The argument of `get_benchmark` that gives it: its name, or the file of a custom benchmark."""
        return self.name

    @property
    def identity(self) -> str:
        """The name, with a digest of a custom benchmark's files; runs are comparable only if it is equal."""
        return self.name

    @property
    def answer_kind(self) -> AnswerKind:
        """How the model answers: free text, first-token probabilities of ``choices``, or a box in text."""
        return "text"

    @property
    def choices(self) -> tuple[str, ...]:
        """The single-token strings whose first-token probabilities are compared; empty for other kinds."""
        return ()

    @property
    def max_new_tokens(self) -> int:
        """Longest answer to generate."""
        return MAX_NEW_TOKENS[self.answer_kind]

    def family_examples(self, root: Path, split: Split = "eval") -> list[Example]:
        """Read all examples of the family, in file order.

        Raises:
            DataError: naming file and row.
        """
        return FAMILIES[self.family].read_files(root, split)

    def owns(self, example: Example) -> bool:
        """Whether an example of the family belongs to this benchmark."""
        return True

    def examples(self, root: Path, split: Split = "eval") -> list[Example]:
        """Read this benchmark's examples from the official layout below ``root``, in file order."""
        return [example for example in self.family_examples(root, split) if self.owns(example)]

    def slim(self, root: Path, size: int, seed: int = STUDY_SEED) -> list[Example]:
        """Return the study's slim subset: ``size`` examples of each part of the family, shuffled."""
        family = subsample(self.family_examples(root), size, self.slim_part, seed)
        return [example for example in family if self.owns(example)]

    def slim_part(self, example: Example) -> str:
        """Return the part of the family that an example belongs to; slim subsets are drawn from each part."""
        return FAMILIES[self.family].part(example)

    @abstractmethod
    def user_message(self, example: Example) -> str:
        """Return the user message, worded as in the study."""

    @abstractmethod
    def score(self, example: Example, answer: Answer) -> Outcome:
        """Score an answer given as text or as the probabilities of ``choices``.

        Raises:
            DataError: if the example's ground truth does not fit this benchmark.
        """

    def headline(self, outcomes: Sequence[Outcome]) -> float | None:
        """Return the reported number in percent; None if there is no outcome."""
        parts = grouped(outcomes, lambda outcome: outcome.example.subset if self.averages_subsets else "").values()
        return percent([sum(outcome.score for outcome in part) / len(part) for part in parts])

    def details(self, outcomes: Sequence[Outcome]) -> Details:
        """Return further metrics, such as those that the benchmark's own scorer prints."""
        return Details({}, {})

    def aggregate(self, outcomes: Sequence[Outcome]) -> dict[str, Any]:
        """Summarize a run.

        Returns:
            ``n``, ``score`` (percent or None), ``subsets`` and ``kinds`` (name -> n, score), ``invalid_rate``
            (percent or None), ``details`` and ``reasons`` (why a detail is None).
        """
        details = self.details(outcomes)
        return {
            "n": len(outcomes),
            "score": self.headline(outcomes),
            "subsets": _parts(outcomes, lambda outcome: outcome.example.subset),
            "kinds": _parts(outcomes, lambda outcome: outcome.example.kind),
            "invalid_rate": percent(float(outcome.invalid) for outcome in outcomes),
            "details": details.values,
            "reasons": details.reasons,
        }


def percent(scores: Iterable[float]) -> float | None:
    """Return the mean of fractions in percent; None if there are none."""
    values = list(scores)
    return 100 * (sum(values) / len(values)) if values else None


def grouped(items: Iterable[Item], key: Callable[[Item], Hashable]) -> dict[Any, list[Item]]:
    """Group items by key, keys in order of first appearance."""
    groups: dict[Any, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def breakdown(
    outcomes: Sequence[Outcome],
    name: str,
    key: Callable[[Outcome], Hashable],
    mean: Callable[[Iterable[float]], float | None] = percent,
) -> dict[str, float | None]:
    """Return the percent score of each part of a run, named ``name/part``."""
    parts = grouped(outcomes, key)
    return {f"{name}/{part}": mean(outcome.score for outcome in rows) for part, rows in parts.items()}


def _parts(outcomes: Sequence[Outcome], key: Callable[[Outcome], str]) -> dict[str, dict[str, Any]]:
    return {
        name: {"n": len(part), "score": percent(outcome.score for outcome in part)}
        for name, part in grouped(outcomes, key).items()
    }


def answer_text(example: Example, answer: Answer) -> str:
    """Return an answer after checking that it is text.

    Raises:
        DataError: if it is not.
    """
    if not isinstance(answer, str):
        raise DataError(f"example {example.example_id}: this benchmark scores text, found {type(answer).__name__}")
    return answer
