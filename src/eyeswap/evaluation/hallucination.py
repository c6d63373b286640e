"""POPE, object hallucination: the study compares first-token probabilities of Yes and No, the official script text.

The reported accuracy is the unweighted mean over the three splits, although they differ in size at the pinned version.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from eyeswap.data.formats import POPE_SPLITS, Example
from eyeswap.data.formats.vqa import SHORT_ANSWER
from eyeswap.errors import DataError
from eyeswap.evaluation.benchmark import (
    Answer,
    AnswerKind,
    Benchmark,
    Details,
    Outcome,
    grouped,
    percent,
)


def say_yes_or_no(text: object) -> str | None:
    """Return the decision that POPE's own script reads from a text; None if it is not text.

    ``no`` if a word of the first sentence, split at spaces, is exactly ``No``, ``no`` or ``not``; else ``yes``.

    Example:
        >>> say_yes_or_no("There is no car."), say_yes_or_no("NO!")
        ('no', 'yes')
    """
    if not isinstance(text, str):
        return None
    pieces = text.partition(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "no", "not"} & set(pieces) else "yes"


def first_token_margin(probabilities: Sequence[float], truth: int) -> float | None:
    """Return log p(truth) - log p(best other choice); None if a probability is not a number."""
    if any(math.isnan(value) for value in probabilities):
        return None
    logs = [math.log(max(value, 1e-12)) for value in probabilities]
    return logs[truth] - max(value for index, value in enumerate(logs) if index != truth)


@dataclass(frozen=True)
class POPE(Benchmark):
    """POPE on COCO images, three splits of yes/no questions."""

    metric: ClassVar[str] = "accuracy, mean of splits"

    @property
    def averages_subsets(self) -> bool:
        return True

    @property
    def answer_kind(self) -> AnswerKind:
        return "text" if self.mode == "official" else "choice"

    @property
    def choices(self) -> tuple[str, ...]:
        return () if self.mode == "official" else ("Yes", "No")

    def user_message(self, example: Example) -> str:
        return f"{example.question}\n{SHORT_ANSWER}"

    def score(self, example: Example, answer: Answer) -> Outcome:
        """Score (P(Yes), P(No)), or a text by the rule of the official script."""
        if example.truth not in ("yes", "no"):
            raise DataError(f"example {example.example_id}: label must be yes or no, found {example.truth!r}")
        if isinstance(answer, str):
            right = say_yes_or_no(answer) == example.truth
            return Outcome(example, answer, float(right), invalid=not answer.strip())
        if len(answer) != 2:
            raise DataError(f"example {example.example_id}: POPE needs P(Yes) and P(No), found {len(answer)}")
        p_yes, p_no = answer
        is_number = not (math.isnan(p_yes) or math.isnan(p_no))
        decision = "yes" if p_yes >= p_no else "no"  # a tie is yes, as in the study
        return Outcome(
            example,
            decision.capitalize() if is_number else "",
            float(is_number and decision == example.truth),
            invalid=not is_number,
            margin=first_token_margin(answer, 0 if example.truth == "yes" else 1),
            probabilities=(p_yes, p_no),
        )

    def details(self, outcomes: Sequence[Outcome]) -> Details:
        """Return by split and pooled the metrics of the official script, or the study's accuracy and AUCs."""
        values: dict[str, float | None] = {}
        reasons: dict[str, str] = {}
        parts = grouped(outcomes, lambda outcome: outcome.example.subset)
        for split in (*POPE_SPLITS, "final"):
            part = list(outcomes) if split == "final" else parts.get(split, [])
            metrics, missing = self._official(part) if self.mode == "official" else self._study(part)
            values |= {f"{name}/{split}": value for name, value in metrics.items()}
            reasons |= {f"{name}/{split}": reason for name, reason in missing.items()}
        if self.mode == "study":
            values["accuracy/final"] = self.headline(outcomes)
        metrics, missing = self._official(outcomes)
        return Details(metrics | values, missing | reasons)

    @staticmethod
    def _official(part: Sequence[Outcome]) -> tuple[dict[str, float | None], dict[str, str]]:
        said_yes = [say_yes_or_no(outcome.answer) == "yes" for outcome in part]
        values = yes_no_report(said_yes, [outcome.example.truth == "yes" for outcome in part])
        missing = {
            "accuracy": "no example",
            "precision": "no yes among the answers",
            "recall": "no yes among the labels",
            "f1": "precision or recall is missing or 0",
            "yes_ratio": "no example",
        }
        return values, {name: reason for name, reason in missing.items() if values[name] is None}

    @staticmethod
    def _study(part: Sequence[Outcome]) -> tuple[dict[str, float | None], dict[str, str]]:
        areas, reason = areas_under_curves(part)
        roc_auc, pr_auc = areas or (None, None)
        values = {"accuracy": percent(outcome.score for outcome in part), "roc_auc": roc_auc, "pr_auc": pr_auc}
        return values, {"roc_auc": reason, "pr_auc": reason} if reason else {}


def yes_no_report(said_yes: Sequence[bool], true_yes: Sequence[bool]) -> dict[str, float | None]:
    """Return the confusion counts and, in percent, accuracy, precision, recall and F1 of yes, and the share of yes."""
    pairs = list(zip(said_yes, true_yes, strict=True))
    tp, fp, tn, fn = (pairs.count(pair) for pair in ((True, True), (True, False), (False, False), (False, True)))
    precision = tp / (tp + fp) if tp + fp else None
    recall = tp / (tp + fn) if tp + fn else None
    f1 = 2 * precision * recall / (precision + recall) if precision and recall else None
    rates = {
        "accuracy": (tp + tn) / len(pairs) if pairs else None,
        "precision": precision,
        "recall": recall,
        "f1": f1,
        "yes_ratio": (tp + fp) / len(pairs) if pairs else None,
    }
    counts = {"tp": float(tp), "fp": float(fp), "tn": float(tn), "fn": float(fn)}
    return counts | {name: None if rate is None else 100 * rate for name, rate in rates.items()}


def areas_under_curves(outcomes: Sequence[Outcome]) -> tuple[tuple[float, float] | None, str]:
    """Return (ROC-AUC, PR-AUC) in percent with P(Yes) as score, or None and the reason."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    if any(outcome.probabilities is None for outcome in outcomes):
        return None, "answers are text, without probabilities"
    labels = np.array([outcome.example.truth == "yes" for outcome in outcomes], dtype=int)
    scores = np.array([outcome.probabilities[0] for outcome in outcomes if outcome.probabilities], dtype=float)
    if len(set(labels.tolist())) < 2:
        return None, "needs examples of both labels"
    if not np.isfinite(scores).all():
        return None, "a probability is not a number"
    return (
        100 * float(roc_auc_score(labels, scores)),
        100 * float(average_precision_score(labels, scores)),
    ), ""
