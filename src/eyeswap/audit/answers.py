"""Checks of a run's predictions: they answer the questions on record, and all scores follow from them.

Everything is recomputed from the stored predictions: the digest of the questions, the score of each answer, the scores
of the run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from eyeswap.audit.finding import Finding
from eyeswap.errors import DataError, SpecError
from eyeswap.evaluation import get_benchmark
from eyeswap.evaluation.predictions import CONTENT, questions_digest
from eyeswap.results.rescore import rescore_predictions
from eyeswap.results.run import Run
from eyeswap.results.scores import Predictions
from eyeswap.results.verify import score_differences
from eyeswap.runs.record import AskedBenchmark
from eyeswap.versions import code_version

_TOLERANCE = 1e-9  # sides of boxes that differ by less are equal


def check_answers(name: str, run: Run) -> Iterator[Finding]:
    """Yield findings about a finished run's predictions and scores.

    Args:
        name: the run's name in findings.
        run: the run.
    """
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
    """Yield the benchmarks in which stored scores or boxes do not follow from the answers, with their numbers."""
    for predictions in run.predictions:
        asked = run.asked[predictions.name]
        if not _is_available(predictions.name, asked):
            continue
        rescored = rescore_predictions(predictions, asked, "official" if asked.mode == "official" else "study")
        boxes = predictions.column("box") if "box" in predictions.table.column_names else []
        moved = sum(not _same_box(outcome.box, box) for outcome, box in zip(rescored.outcomes, boxes, strict=False))
        counts = {"scores": rescored.num_changed, "boxes": moved}
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


def _same_box(first: Sequence[float] | None, second: Sequence[float] | None) -> bool:
    if first is None or second is None:
        return first is second
    return len(first) == len(second) and all(abs(a - b) < _TOLERANCE for a, b in zip(first, second, strict=True))


def check_errors(runs: Mapping[str, Run]) -> Iterator[Finding]:
    """Yield the benchmarks with examples that could not be asked or scored, as an error if the runs differ in them.

    Args:
        runs: the runs by name.
    """
    for benchmark in dict.fromkeys(name for run in runs.values() for name in run.asked):
        failed = {name: ids for name, run in runs.items() if (ids := _failed(run, benchmark)) is not None}
        if len(set(failed.values())) > 1:
            counts = {name: len(ids) for name, ids in failed.items()}
            yield Finding(
                "errors",
                "error",
                tuple(name for name, count in counts.items() if count),
                f"{benchmark}: questions could not be asked or scored in some runs, and count as wrong there: "
                + "; ".join(f"{name} {count:,}" for name, count in counts.items()),
                {"benchmark": benchmark, "errors": counts},
                together=True,
            )
        elif any(failed.values()):
            count = len(next(iter(failed.values())))
            message = f"{benchmark}: {count:,} questions could not be asked or scored in any run, and count as wrong"
            yield Finding("errors", "note", tuple(failed), message, {"benchmark": benchmark, "errors": count}, True)


def _failed(run: Run, benchmark: str) -> frozenset[str] | None:
    """Return the ids of the examples that could not be asked or scored; None if that cannot be read."""
    try:
        predictions = next((each for each in run.predictions if each.name == benchmark), None)
    except DataError:
        return None  # `check_answers` reports it
    if predictions is None:
        return None
    if "error" not in predictions.table.column_names:
        return frozenset()
    rows = zip(predictions.column("example_id"), predictions.column("error"), strict=True)
    return frozenset(example_id for example_id, error in rows if error is not None)
