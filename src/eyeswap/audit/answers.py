"""Checks of a run's predictions: they answer the questions on record, and all scores follow from them.

Everything is recomputed from the stored predictions: the digest of the questions, the score of each answer, the scores
of the run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from eyeswap.audit.finding import Finding
from eyeswap.errors import DataError, SpecError
from eyeswap.evaluation import get_benchmark
from eyeswap.evaluation.predictions import CONTENT, questions_digest
from eyeswap.results.rescore import Rescored, rescore_predictions
from eyeswap.results.run import Run
from eyeswap.results.scores import Predictions
from eyeswap.results.verify import score_differences
from eyeswap.runs.record import AskedBenchmark
from eyeswap.versions import code_version

_DERIVED = {"boxes": "box", "IoUs": "iou", "invalid flags": "invalid", "margins": "margin"}  # by their columns
_TOLERANCE = 1e-9  # numbers that differ by less are equal


def check_answers(name: str, run: Run) -> Iterator[Finding]:
    """Yield findings about a finished run's predictions and scores.

    Args:
        name: the run's name in findings.
        run: the run.
    """
    if run.files.seal.is_file() and not run.files.is_scored:
        yield Finding(
            "scores", "error", (name,), "the run is finished but has no scores.json", {"missing": "scores.json"}
        )
    if not run.files.is_scored or not run.files.benchmarks.is_file():
        return
    try:
        reasons = {predictions.name: _not_as_asked(run, predictions) for predictions in run.predictions}
        problems = {benchmark: reason for benchmark, reason in reasons.items() if reason}
        if problems:
            yield _finding("answers", name, "the predictions do not answer the questions on record", problems)
            return
        changed = dict(_changed_scores(run))
        if changed:
            yield _finding("scores", name, "scores do not follow from the answers", changed)
        differences = score_differences(run, with_intervals=run.environment.code_version == code_version())
        if differences:
            yield _finding("scores", name, "scores.json does not follow from the predictions", differences)
    except DataError as problem:
        message = f"predictions or scores cannot be read: {problem}"
        yield Finding("answers", "error", (name,), message, {"problem": str(problem)})


def _finding(key: str, name: str, message: str, reasons: dict[str, str]) -> Finding:
    words = "; ".join(f"{benchmark}: {reason}" for benchmark, reason in reasons.items())
    return Finding(key, "error", (name,), f"{message}: {words}", dict(reasons))


def _not_as_asked(run: Run, predictions: Predictions) -> str:
    """Return how the predictions differ from what was asked; empty if they do not."""
    asked, table = run.asked[predictions.name], predictions.table
    if asked.num_examples is not None and table.num_rows != asked.num_examples:
        return f"{table.num_rows:,} answers to {asked.num_examples:,} questions"
    if asked.questions_digest is None:
        return ""
    missing = [column for column in CONTENT if column not in table.column_names]
    if missing:
        return f"no column {', '.join(missing)}"
    has_boxes = asked.iou_threshold is not None
    frame = asked.box_frame or (run.record.test_box_frame if has_boxes else None)
    rows = zip(*(table.column(column).to_pylist() for column in CONTENT), strict=True)
    try:
        digest = questions_digest(asked.mode or "study", frame, rows)
    except (TypeError, ValueError):
        return "a truth is not JSON"
    return "" if digest == asked.questions_digest else "other questions or answer keys"


def _changed_scores(run: Run) -> Iterator[tuple[str, str]]:
    """Yield the benchmarks in which scores, boxes or margins do not follow from the answers, with their numbers."""
    for predictions in run.predictions:
        asked = run.asked[predictions.name]
        if not _is_available(predictions.name, asked):
            continue
        rescored = rescore_predictions(predictions, asked, "official" if asked.mode == "official" else "study")
        changed = {kind: _num_changed(rescored, column) for kind, column in _DERIVED.items()}
        counts = {"scores": rescored.num_changed} | changed
        phrases = [f"{count:,} of {len(rescored.outcomes):,} {kind}" for kind, count in counts.items() if count]
        if phrases:
            yield predictions.name, " and ".join(phrases)


def _is_available(name: str, asked: AskedBenchmark) -> bool:
    """Whether the benchmark is known on this machine; a custom benchmark's file may be elsewhere."""
    try:
        get_benchmark(asked.benchmark or name)
    except (SpecError, DataError):
        return False
    return True


def _num_changed(rescored: Rescored, column: str) -> int:
    """Return in how many rows a column does not follow from the answer; 0 if it is missing, as in older files."""
    if column not in rescored.predictions.table.column_names:
        return 0
    pairs = zip(rescored.outcomes, rescored.predictions.column(column), strict=True)
    values = ((getattr(outcome, column), stored) for outcome, stored in pairs)
    if column == "margin":  # older files lack the probabilities that it is computed from
        values = ((computed, stored) for computed, stored in values if computed is not None)
    return sum(not _is_same(computed, stored) for computed, stored in values)


def _is_same(computed: Any, stored: Any) -> bool:
    """Whether two numbers, boxes or flags are equal, or both are missing."""
    if computed is None or stored is None:
        return computed is stored
    if not isinstance(stored, list):
        computed, stored = [computed], [stored]
    return len(computed) == len(stored) and all(
        math.isclose(first, second, rel_tol=0.0, abs_tol=_TOLERANCE) or (math.isnan(first) and math.isnan(second))
        for first, second in zip(computed, stored, strict=True)
    )
