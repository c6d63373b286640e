"""TallyQA, counting: 0..15 are offered as letters A..P, and the most probable first token is the answer.

Counts above fifteen cannot be answered and score 0. The areas under curves are those of the study's own repository,
taken over the counts that occur; upstream's scorer fails if one does not.
"""

from __future__ import annotations

import json
import math
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from eyeswap.data.formats import Example
from eyeswap.data.formats.tallyqa import NUM_COUNTS, count_message
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
from eyeswap.evaluation.hallucination import first_token_margin

LETTERS = tuple(string.ascii_uppercase[:NUM_COUNTS])
AREAS = ("roc_auc", "pr_auc")


@dataclass(frozen=True)
class TallyQA(Benchmark):
    """TallyQA test set, simple and complex questions pooled."""

    metric: ClassVar[str] = "accuracy"

    @property
    def answer_kind(self) -> AnswerKind:
        return "choice"

    @property
    def choices(self) -> tuple[str, ...]:
        return LETTERS

    def user_message(self, example: Example) -> str:
        return count_message(example.question)

    def score(self, example: Example, answer: Answer) -> Outcome:
        """Score sixteen probabilities, or a text that is a letter or a number."""
        truth = example.truth
        if not isinstance(truth, int):
            raise DataError(f"example {example.example_id}: TallyQA needs a count as truth, found {truth!r}")
        if isinstance(answer, str):
            count = _read_count(answer)
            return Outcome(example, answer, float(count == truth), invalid=count is None)
        if len(answer) != NUM_COUNTS:
            raise DataError(f"example {example.example_id}: TallyQA needs 16 probabilities, found {len(answer)}")
        is_number = not any(math.isnan(value) for value in answer)
        best = max(range(NUM_COUNTS), key=lambda count: answer[count])  # the first of equals
        return Outcome(
            example,
            LETTERS[best] if is_number else "",
            float(is_number and best == truth),
            invalid=not is_number,
            margin=first_token_margin(answer, truth) if truth < NUM_COUNTS else None,
            probabilities=tuple(answer),
        )

    def details(self, outcomes: Sequence[Outcome]) -> Details:
        """Return by subset and pooled (``final``) accuracy, one-vs-one ROC-AUC, macro PR-AUC, and the RMSE of counts.

        The RMSE is over the answers that are a count (Acharya et al. 2019, TallyQA: Answering Complex Counting
        Questions); the study does not report it.
        """
        values: dict[str, float | None] = {}
        reasons: dict[str, str] = {}
        parts = grouped(outcomes, lambda outcome: outcome.example.subset)
        for subset in ("simple", "complex", "final"):
            part = list(outcomes) if subset == "final" else parts.get(subset, [])
            values[f"accuracy/{subset}"] = percent(outcome.score for outcome in part)
            (values[f"roc_auc/{subset}"], values[f"pr_auc/{subset}"]), reason = macro_areas(part)
            reasons |= {f"{area}/{subset}": reason for area in AREAS if values[f"{area}/{subset}"] is None}
            values[f"rmse_counts/{subset}"] = count_error(part)
            if values[f"rmse_counts/{subset}"] is None:
                reasons[f"rmse_counts/{subset}"] = "no answer is a count"
        return Details(values, reasons)


def spelled_out(answer: str, benchmark: str, details: str | None = None) -> str:
    """Return an answer for a reader: the count or the choice that a letter stands for, other answers as they are.

    Args:
        answer: as stored with the predictions.
        benchmark: its short name.
        details: the example's further fields, JSON; the choices of multiple-choice questions are among them.
    """
    offered: Sequence[object] = range(NUM_COUNTS) if benchmark == "tallyqa" else ()
    if details and '"choices"' in details:
        offered = json.loads(details).get("choices") or ()
    if len(answer) == 1 and answer in string.ascii_uppercase[: len(offered)]:
        return str(offered[string.ascii_uppercase.index(answer)])
    return answer


def count_error(outcomes: Sequence[Outcome]) -> float | None:
    """Return the root mean squared error of the answers that are a count; None if there are none."""
    counts = [(_read_count(outcome.answer), outcome.example.truth) for outcome in outcomes if not outcome.invalid]
    errors = [(count - int(str(truth))) ** 2 for count, truth in counts if count is not None]
    return math.sqrt(sum(errors) / len(errors)) if errors else None


def _read_count(text: str) -> int | None:
    """Return the count that a text gives as a letter or a number."""
    text = text.strip()
    if text in LETTERS:
        return LETTERS.index(text)
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else None


def macro_areas(outcomes: Sequence[Outcome]) -> tuple[tuple[float | None, float | None], str]:
    """Return (one-vs-one macro ROC-AUC, macro PR-AUC) in percent, and the reason if one of them is None.

    Both are means over the counts that occur, the ROC-AUC over pairs of them, so that it needs two.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    if not outcomes:
        return (None, None), "no example"
    if any(outcome.probabilities is None for outcome in outcomes):
        return (None, None), "answers are text, without probabilities"
    truths = np.array([outcome.example.truth for outcome in outcomes], dtype=int)
    counts = sorted(set(truths.tolist()))
    if counts[-1] >= NUM_COUNTS:
        return (None, None), "an example has a count above 15"
    scores = np.array([outcome.probabilities for outcome in outcomes], dtype=float)  # [n, 16]
    if not np.isfinite(scores).all() or not np.allclose(scores.sum(1), 1):
        return (None, None), "probabilities must be numbers that sum to 1"
    precision = 100 * float(np.mean([average_precision_score(truths == count, scores[:, count]) for count in counts]))
    if len(counts) == 1:
        return (None, precision), "every example has the same count"
    labels = list(range(NUM_COUNTS))
    return (100 * float(roc_auc_score(truths, scores, multi_class="ovo", labels=labels)), precision), ""
