"""Benchmarks answered in free text: VQA v2, GQA, VizWiz and TextVQA.

Each of k human answers gives credit min(1, matches among the other answers / 3); a question's score is the
mean credit. The study normalises human answers less than predictions (VQA v2) or not at all (VizWiz).
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from eyeswap.data.formats import Example, read_gqa, read_textvqa, read_vizwiz, read_vqa
from eyeswap.errors import DataError
from eyeswap.evaluation.benchmark import (
    SHORT_ANSWER,
    Answer,
    Benchmark,
    Details,
    Outcome,
    Split,
    answer_text,
    breakdown,
    grouped,
    percent,
)
from eyeswap.evaluation.text import (
    VIZWIZ_CONTRACTIONS,
    normalise_answer,
    normalise_textvqa,
    normalise_words,
    strip_lines,
    strip_punctuation,
)

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_GQA_SHORT_STEPS = ("exist", "query: name", "choose name")


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
    """Score VQA v2 as the study does: of the human answers only the punctuation is normalised."""
    return soft_accuracy(normalise_answer(prediction), [strip_punctuation(answer) for answer in answers])


def score_vqa_official(prediction: str, answers: Sequence[str]) -> float | None:
    """Score VQA v2 as its own script does: normalise everything, unless all human answers are the same."""
    prediction, truths = strip_lines(prediction), [strip_lines(answer) for answer in answers]
    if len(set(truths)) > 1:
        prediction = normalise_words(strip_punctuation(prediction))
        truths = [normalise_words(strip_punctuation(answer)) for answer in truths]
    return soft_accuracy(prediction, truths)


def score_vizwiz(prediction: str, answers: Sequence[str]) -> float | None:
    """Score VizWiz: human answers are compared as they stand."""
    return soft_accuracy(normalise_answer(prediction, VIZWIZ_CONTRACTIONS), answers)


def is_unanswerable(prediction: str) -> bool:
    """Whether VizWiz takes the prediction for "unanswerable"."""
    return normalise_answer(prediction, VIZWIZ_CONTRACTIONS) == "unanswerable"


def score_textvqa(prediction: object, answers: Sequence[str]) -> float | None:
    """Score TextVQA; None unless the prediction is text and there are exactly ten answers."""
    if not isinstance(prediction, str) or len(answers) != 10:
        return None
    return soft_accuracy(normalise_textvqa(prediction), [normalise_textvqa(answer) for answer in answers])


def clean_gqa(prediction: str) -> str:
    """Return a prediction as GQA compares it: no ASCII punctuation, lower case, white space kept."""
    return prediction.translate(_NO_PUNCTUATION).lower()


@dataclass(frozen=True)
class _TextBenchmark(Benchmark):
    """What the four share: a question plus the short-answer instruction, and a score from human answers."""

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
        """Score a prediction against human answers; None if their number is impossible."""
        raise DataError(f"{self.name} does not score human answers")


@dataclass(frozen=True)
class VQAv2(_TextBenchmark):
    """VQA v2, soft accuracy."""

    metric: ClassVar[str] = "VQA soft accuracy"

    def family_examples(self, root: Path, split: Split = "eval") -> list[Example]:
        """Read the validation or training files."""
        year = "val2014" if split == "eval" else "train2014"
        folder = root / "download" / self.family
        questions, annotations = folder / f"v2_{year}_questions.json", folder / f"v2_{year}_annotations.json"
        return read_vqa(questions, annotations, f"download/{self.family}/images_{year}", year)

    def score_text(self, prediction: str, answers: Sequence[str]) -> float | None:
        """Score by the rule of this benchmark and mode."""
        score = score_vqa_official if self.mode == "official" else score_vqa_study
        return score(prediction, answers)

    def details(self, outcomes: Sequence[Outcome]) -> Details:
        """Accuracy by answer type and by question type."""
        by_answer = breakdown(outcomes, "answer_type", lambda outcome: outcome.example.details.get("answer_type"))
        by_question = breakdown(outcomes, "question_type", lambda outcome: outcome.example.details.get("question_type"))
        return Details(by_answer | by_question, {})


@dataclass(frozen=True)
class VizWiz(_TextBenchmark):
    """VizWiz, soft accuracy, and how well "unanswerable" is told."""

    metric: ClassVar[str] = "VQA soft accuracy"

    def family_examples(self, root: Path, split: Split = "eval") -> list[Example]:
        """Read the validation or training files."""
        name = "val" if split == "eval" else "train"
        folder = root / "download" / self.family
        return read_vizwiz(folder / f"{name}.json", f"download/{self.family}/{name}_images")

    def user_message(self, example: Example) -> str:
        """Ask for a short answer."""
        hint = "When the provided information is insufficient, respond with 'Unanswerable'."
        return f"{example.question}\n{hint}\n{SHORT_ANSWER}"

    def score_text(self, prediction: str, answers: Sequence[str]) -> float | None:
        """Score by the rule of this benchmark and mode."""
        return score_vizwiz(prediction, answers)

    def details(self, outcomes: Sequence[Outcome]) -> Details:
        """Average precision and F1 of "unanswerable" from hard decisions."""
        truth = [outcome.example.details.get("answerable", 1) == 0 for outcome in outcomes]
        told = [is_unanswerable(outcome.answer) for outcome in outcomes]
        if not outcomes:
            return Details({"average_precision": None, "f1": None}, {"f1": "no example"})
        hits = sum(a and b for a, b in zip(truth, told, strict=True))
        precision = hits / sum(told) if any(told) else 0.0
        recall = hits / sum(truth) if any(truth) else 0.0
        # Two thresholds: those told unanswerable first, then everything.
        average = precision * recall + sum(truth) / len(truth) * (1 - recall) if any(truth) else 0.0
        f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
        return Details({"average_precision": 100 * average, "f1": 100 * f1}, {})


@dataclass(frozen=True)
class TextVQA(_TextBenchmark):
    """TextVQA, soft accuracy; the study asks each question twice, with and without OCR tokens."""

    metric: ClassVar[str] = "VQA soft accuracy"
    with_ocr: bool = False

    def family_examples(self, root: Path, split: Split = "eval") -> list[Example]:
        """Read the validation or training files."""
        folder, name = root / "download" / self.family, "val" if split == "eval" else "train"
        names = (f"textvqa_{name}_v051_ocr.jsonl", f"llava_textvqa_{name}_v051_ocr.jsonl")
        ocr = next((folder / file for file in names if (folder / file).is_file()), None)
        images = f"download/{self.family}/train_val_images"
        return read_textvqa(folder / f"TextVQA_0.5.1_{name}.json", ocr, images, self.with_ocr)

    def score_text(self, prediction: str, answers: Sequence[str]) -> float | None:
        """Score by the rule of this benchmark and mode."""
        return score_textvqa(prediction, answers)


@dataclass(frozen=True)
class GQA(_TextBenchmark):
    """GQA, exact match; only the prediction is cleaned, so an answer with punctuation can never match."""

    metric: ClassVar[str] = "exact match"

    def family_examples(self, root: Path, split: Split = "eval") -> list[Example]:
        """Read the validation or training files."""
        name = "testdev" if split == "eval" else "train"
        path = root / "download" / self.family / f"{name}_balanced_questions.json"
        return read_gqa(path, f"download/{self.family}/images", name)

    def score(self, example: Example, answer: Answer) -> Outcome:
        """Score a text against the human answers."""
        text = answer_text(example, answer)
        if not isinstance(example.truth, str):
            raise DataError(f"example {example.example_id}: gqa needs one answer as truth, found {example.truth!r}")
        return Outcome(example, text, float(clean_gqa(text) == example.truth), invalid=not text.strip())

    def details(self, outcomes: Sequence[Outcome]) -> Details:
        """The breakdowns of the official script, and its chi-square distance of answer distributions."""
        is_open = grouped(outcomes, lambda outcome: _structural(outcome) == "query")
        values = {
            **breakdown(outcomes, "structural", _structural),
            **breakdown(outcomes, "semantic", lambda outcome: outcome.example.details.get("semantic", "other")),
            **breakdown(outcomes, "steps", lambda outcome: count_steps(outcome.example.details.get("program", []))),
            **breakdown(outcomes, "words", lambda outcome: len(outcome.example.question.split())),
            "binary": percent(outcome.score for outcome in is_open.get(False, [])),
            "open": percent(outcome.score for outcome in is_open.get(True, [])),
            "distribution": answer_distance(outcomes),
        }
        missing = {
            "binary": "no binary question",
            "open": "no open question",
            "distribution": "no question has a global group",
        }
        return Details(values, {name: reason for name, reason in missing.items() if values[name] is None})


def _structural(outcome: Outcome) -> str:
    return str(outcome.example.details.get("structural", "query"))


def count_steps(program: Sequence[Sequence[str]]) -> int:
    """Count the reasoning steps of a GQA program; steps that only look up or name do not count."""
    steps = [f"{operation}: {argument}" for operation, argument in program]
    return sum(not any(short in step for short in _GQA_SHORT_STEPS) for step in steps)


def answer_distance(outcomes: Sequence[Outcome]) -> float | None:
    """Return GQA's distribution score: chi-square of predicted against true answers by group, over 100."""
    total, weight = 0.0, 0
    for group, part in grouped(outcomes, lambda outcome: outcome.example.details.get("global_group")).items():
        if group is None:
            continue
        truths = [str(outcome.example.truth) for outcome in part]
        told = [clean_gqa(outcome.answer) for outcome in part]
        expected = {answer: truths.count(answer) for answer in dict.fromkeys(truths)}
        distance = sum((told.count(answer) - count) ** 2 / count for answer, count in expected.items())
        total += distance * len(part)
        weight += len(part)
    return total / weight / 100 if weight else None
