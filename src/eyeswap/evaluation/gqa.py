"""GQA: exact match of short answers, and the metrics of its own script.

The script compares predictions unchanged and leaves their normalisation to the user. The study removes punctuation and
lowers the case of predictions only, so a ground truth with punctuation can never be matched. The ``official`` mode adds
the metrics that the study switches off, as far as the files allow: consistency over the entailed questions that were
asked too, validity and plausibility if ``testdev_choices.json`` is available.
"""

from __future__ import annotations

import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from eyeswap.data.formats import Example
from eyeswap.data.formats.vqa import SHORT_ANSWER
from eyeswap.errors import DataError
from eyeswap.evaluation.benchmark import (
    Answer,
    Benchmark,
    Details,
    Outcome,
    answer_text,
    breakdown,
    grouped,
    percent,
)
from eyeswap.evaluation.text import checked_text

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_SHORT_STEPS = ("exist", "query: name", "choose name")


def clean_gqa(prediction: str) -> str:
    """Return a prediction normalised for GQA: without ASCII punctuation, in lower case, white space kept."""
    return checked_text(prediction).translate(_NO_PUNCTUATION).lower()


@dataclass(frozen=True)
class GQA(Benchmark):
    """GQA's balanced test-dev set, exact match."""

    metric: ClassVar[str] = "exact match"

    def user_message(self, example: Example) -> str:
        return f"{example.question}\n{SHORT_ANSWER}"

    def score(self, example: Example, answer: Answer) -> Outcome:
        """Score a text against the only true answer."""
        text = answer_text(example, answer)
        if not isinstance(example.truth, str):
            raise DataError(f"example {example.example_id}: GQA needs one true answer, found {example.truth!r}")
        return Outcome(example, text, float(clean_gqa(text) == example.truth), invalid=not text.strip())

    def details(self, outcomes: Sequence[Outcome]) -> Details:
        """Return the breakdowns of the official script, and its chi-square distance of answer distributions."""
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
        if self.mode == "official":
            values["consistency"] = percent(entailed_scores(outcomes))
            missing["consistency"] = "no correctly answered question entails another one that was asked"
            for name in ("validity", "plausibility"):
                values[name] = percent(_allowed(outcomes, {"validity": "valid"}.get(name, "plausible")))
                missing[name] = "testdev_choices.json, the list of possible answers, is not beside the questions"
            values["grounding"] = None
            missing["grounding"] = "needs attention maps over scene graphs, which a VLM does not provide"
        return Details(values, {name: reason for name, reason in missing.items() if values[name] is None})


def _structural(outcome: Outcome) -> str:
    return str(outcome.example.details.get("structural", "query"))


def count_steps(program: Sequence[Sequence[str]]) -> int:
    """Count the reasoning steps of a GQA program, without those that only look up or name."""
    steps = [f"{operation}: {argument}" for operation, argument in program]
    return sum(not any(short in step for short in _SHORT_STEPS) for step in steps)


def answer_distance(outcomes: Sequence[Outcome]) -> float | None:
    """Return GQA's distribution score: chi-square of predicted against true answers by group, over 100."""
    total, weight = 0.0, 0
    for group, part in grouped(outcomes, lambda outcome: outcome.example.details.get("global_group")).items():
        if group is None:
            continue
        truths = [str(outcome.example.truth) for outcome in part]
        predictions = [clean_gqa(outcome.answer) for outcome in part]
        expected = {answer: truths.count(answer) for answer in dict.fromkeys(truths)}
        distance = sum((predictions.count(answer) - count) ** 2 / count for answer, count in expected.items())
        total += distance * len(part)
        weight += len(part)
    return total / weight / 100 if weight else None


def entailed_scores(outcomes: Sequence[Outcome]) -> Iterator[float]:
    """Yield for each correctly answered question the mean score of the questions that it entails.

    Entailed questions that were not asked are skipped; the official script requires answers to all of them.
    """
    scores = {outcome.example.raw_id: outcome.score for outcome in outcomes}
    for outcome in outcomes:
        entailed = [name for name in outcome.example.details.get("entailed", []) if name != outcome.example.raw_id]
        asked = [scores[name] for name in entailed if name in scores]
        if outcome.score == 1 and asked:
            yield sum(asked) / len(asked)


def _allowed(outcomes: Sequence[Outcome], name: str) -> Iterator[float]:
    """Yield whether each answer is in its question's list of ``valid`` or ``plausible`` answers."""
    for outcome in outcomes:
        if name in outcome.example.details:
            yield float(clean_gqa(outcome.answer) in outcome.example.details[name])
