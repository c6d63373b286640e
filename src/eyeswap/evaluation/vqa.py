"""Benchmarks scored against several human answers: VQA v2, VizWiz and TextVQA.

For each of the k human answers the credit is min(1, matches among the other answers / 3), and the score of a question
is the mean credit. The study normalises human answers less than predictions (VQA v2) or not at all (VizWiz).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from eyeswap.data.formats import Example
from eyeswap.data.formats.vqa import SHORT_ANSWER
from eyeswap.data.official.layout import Split, read_text_vqa_files
from eyeswap.errors import DataError
from eyeswap.evaluation.benchmark import (
    Answer,
    Benchmark,
    Details,
    Outcome,
    answer_text,
    breakdown,
    percent,
)
from eyeswap.evaluation.text import (
    VIZWIZ_CONTRACTIONS,
    VIZWIZ_OFFICIAL_CONTRACTIONS,
    normalise_answer,
    normalise_textvqa,
    normalise_words,
    strip_lines,
    strip_punctuation,
)


def soft_accuracy(prediction: str, answers: Sequence[str]) -> float | None:
    """Return the mean leave-one-out credit of a normalised prediction; None without answers.

    Example:
        >>> soft_accuracy("dog", ["dog"] * 2 + ["cat"] * 8)
        0.6
    """
    matches = [answer == prediction for answer in answers]
    credits = [min(1.0, (sum(matches) - match) / 3) for match in matches]
    return sum(credits) / len(credits) if credits else None


def score_vqa_study(prediction: str, answers: Sequence[str]) -> float | None:
    """Score VQA v2 as the study does: only the punctuation of human answers is normalised."""
    return soft_accuracy(normalise_answer(prediction), [strip_punctuation(answer) for answer in answers])


def score_vqa_official(prediction: str, answers: Sequence[str]) -> float | None:
    """Score VQA v2 as its own script does: nothing is normalised if all human answers are equal, else everything."""
    prediction, truths = strip_lines(prediction), [strip_lines(answer) for answer in answers]
    if len(set(truths)) > 1:
        prediction = normalise_words(strip_punctuation(prediction))
        truths = [normalise_words(strip_punctuation(answer)) for answer in truths]
    return soft_accuracy(prediction, truths)


def score_vizwiz(
    prediction: str, answers: Sequence[str], contractions: Mapping[str, str] = VIZWIZ_CONTRACTIONS
) -> float | None:
    """Score VizWiz: human answers are compared without normalisation."""
    return soft_accuracy(normalise_answer(prediction, contractions), answers)


def is_unanswerable(prediction: str) -> bool:
    """Return whether VizWiz counts a prediction as "unanswerable"."""
    return normalise_answer(prediction, VIZWIZ_CONTRACTIONS) == "unanswerable"


def score_textvqa(prediction: object, answers: Sequence[str]) -> float | None:
    """Score TextVQA; None unless the prediction is text and there are exactly ten answers."""
    if not isinstance(prediction, str) or len(answers) != 10:
        return None
    return soft_accuracy(normalise_textvqa(prediction), [normalise_textvqa(answer) for answer in answers])


def percent_as_official(scores: Iterable[float]) -> float | None:
    """Return the mean of fractions in percent; None if there are none.

    The official scripts multiply before they divide, which can change the second decimal.
    """
    values = list(scores)
    return 100 * sum(values) / len(values) if values else None


@dataclass(frozen=True)
class _TextBenchmark(Benchmark):
    """Common part of the three: the short-answer instruction, and a score against human answers."""

    def user_message(self, example: Example) -> str:
        return f"{example.question}\n{SHORT_ANSWER}"

    def score(self, example: Example, answer: Answer) -> Outcome:
        text = answer_text(example, answer)
        if not isinstance(example.truth, tuple):
            raise DataError(f"example {example.example_id}: {self.name} needs a list of human answers")
        score = self.score_text(text, [str(truth) for truth in example.truth])
        if score is None:
            raise DataError(f"example {example.example_id}: {self.name} cannot score {len(example.truth)} answers")
        return Outcome(example, text, score, invalid=not text.strip())

    def score_text(self, prediction: str, answers: Sequence[str]) -> float | None:
        """Score a prediction against human answers; None if there are too few or too many."""
        raise DataError(f"{self.name} does not score human answers")


@dataclass(frozen=True)
class VQAv2(_TextBenchmark):
    """VQA v2, soft accuracy."""

    metric: ClassVar[str] = "VQA soft accuracy"

    def score_text(self, prediction: str, answers: Sequence[str]) -> float | None:
        score = score_vqa_official if self.mode == "official" else score_vqa_study
        return score(prediction, answers)

    def headline(self, outcomes: Sequence[Outcome]) -> float | None:
        return self._mean(outcome.score for outcome in outcomes)

    def details(self, outcomes: Sequence[Outcome]) -> Details:
        """Return accuracy by answer type and by question type."""
        return Details(
            {
                name: value
                for field in ("answer_type", "question_type")
                for name, value in breakdown(outcomes, field, _detail(field), self._mean).items()
            },
            {},
        )

    def _mean(self, scores: Iterable[float]) -> float | None:
        return percent_as_official(scores) if self.mode == "official" else percent(scores)


def _detail(field: str) -> Callable[[Outcome], Hashable]:
    return lambda outcome: outcome.example.details.get(field)


@dataclass(frozen=True)
class VizWiz(_TextBenchmark):
    """VizWiz, soft accuracy, and detection of "unanswerable".

    The two modes differ in the apostrophe of restored contractions: a back-tick in the study, a typographic one in
    VizWiz's own script.
    """

    metric: ClassVar[str] = "VQA soft accuracy"

    def user_message(self, example: Example) -> str:
        hint = "When the provided information is insufficient, respond with 'Unanswerable'."
        return f"{example.question}\n{hint}\n{SHORT_ANSWER}"

    def score_text(self, prediction: str, answers: Sequence[str]) -> float | None:
        official = self.mode == "official"
        return score_vizwiz(prediction, answers, VIZWIZ_OFFICIAL_CONTRACTIONS if official else VIZWIZ_CONTRACTIONS)

    def headline(self, outcomes: Sequence[Outcome]) -> float | None:
        return percent_as_official(outcome.score for outcome in outcomes)

    def details(self, outcomes: Sequence[Outcome]) -> Details:
        """Return accuracy by answer type, and average precision and F1 of "unanswerable" from hard decisions."""
        by_type = breakdown(outcomes, "answer_type", _detail("answer_type"), percent_as_official)
        truth = [outcome.example.details.get("answerable", 1) == 0 for outcome in outcomes]
        predicted = [is_unanswerable(outcome.answer) for outcome in outcomes]
        if not outcomes:
            return Details(
                {"average_precision": None, "f1": None}, dict.fromkeys(("average_precision", "f1"), "no example")
            )
        hits = sum(a and b for a, b in zip(truth, predicted, strict=True))
        precision = hits / sum(predicted) if any(predicted) else 0.0
        recall = hits / sum(truth) if any(truth) else 0.0
        # The curve has two thresholds: only those predicted unanswerable, then everything.
        average = precision * recall + sum(truth) / len(truth) * (1 - recall) if any(truth) else 0.0
        f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
        return Details(by_type | {"average_precision": 100 * average, "f1": 100 * f1}, {})


@dataclass(frozen=True)
class TextVQA(_TextBenchmark):
    """TextVQA, soft accuracy; the study asks each question twice, with and without OCR tokens."""

    metric: ClassVar[str] = "VQA soft accuracy"
    with_ocr: bool = False

    def family_examples(self, root: Path, split: Split = "eval") -> list[Example]:
        """Read the validation or training files, questions with or without their OCR line."""
        return read_text_vqa_files(root, split, self.with_ocr)

    def score_text(self, prediction: str, answers: Sequence[str]) -> float | None:
        return score_textvqa(prediction, answers)
