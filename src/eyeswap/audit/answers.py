"""Do a run's numbers follow from its answers, and its answers from the questions on record?

Everything is computed again from the stored predictions: which questions were asked, the score of each answer, the
scores of the run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import get_args

from eyeswap.audit.finding import Finding
from eyeswap.errors import DataError, SpecError
from eyeswap.evaluation import get_benchmark
from eyeswap.evaluation.benchmark import Mode
from eyeswap.evaluation.predictions import CONTENT, questions_digest, read_predictions
from eyeswap.results.rescore import rescore_benchmarks
from eyeswap.results.run import Run
from eyeswap.results.verify import score_differences
from eyeswap.runs.record import AskedBenchmark, read_index
from eyeswap.versions import code_version

_CLOSE = 1e-9  # two sides of a box nearer than this are equal


def check_answers(name: str, run: Run) -> Iterator[Finding]:
    """Yield what of a finished run's answers and scores does not fit.

    Args:
        name: the run's name in findings.
        run: the run.
    """
    if not run.files.is_scored or not run.files.benchmarks.is_file():
        return
    try:
        index = read_index(run.files.benchmarks)
        reasons = {benchmark: _not_as_asked(run, benchmark, about) for benchmark, about in index.items()}
        problems = {benchmark: why for benchmark, why in reasons.items() if why}
        if problems:
            yield _finding("answers", name, "the answers are not those to the questions on record", problems)
            return
        changed = dict(_not_as_answered(run, index))
        if changed:
            yield _finding("scores", name, "scores do not follow from the answers", changed)
        differing = score_differences(run, with_intervals=run.environment.code_version == code_version())
        if differing:
            yield _finding("scores", name, "scores.json does not follow from the predictions", differing)
    except DataError as problem:
        message = f"answers or scores cannot be read: {problem}"
        yield Finding("answers", "error", (name,), message, {"problem": str(problem)})


def _finding(key: str, name: str, message: str, reasons: dict[str, str]) -> Finding:
    words = "; ".join(f"{place}: {why}" for place, why in reasons.items())
    return Finding(key, "error", (name,), f"{message}: {words}", dict(reasons))


def _not_as_asked(run: Run, benchmark: str, about: AskedBenchmark) -> str:
    """Return why the rows of a benchmark are not what was asked; empty if they are."""
    table = read_predictions(run.folder, benchmark)
    if about.num_examples is not None and table.num_rows != about.num_examples:
        return f"{table.num_rows:,} answers to {about.num_examples:,} questions"
    if about.questions_digest is None:
        return ""
    missing = [column for column in CONTENT if column not in table.column_names]
    if missing:
        return f"no column {', '.join(missing)}"
    is_boxed = about.iou_threshold is not None
    frame = about.box_frame or (run.record.test_box_frame if is_boxed else None)
    rows = zip(*(table.column(column).to_pylist() for column in CONTENT), strict=True)
    try:
        asked = questions_digest(about.mode or "study", frame, rows)
    except (TypeError, ValueError):
        return "a truth is no JSON text"
    return "" if asked == about.questions_digest else "other questions or true answers"


def _not_as_answered(run: Run, index: Mapping[str, AskedBenchmark]) -> Iterator[tuple[str, str]]:
    """Yield the benchmarks whose scores or boxes are not those of their answers, and how many."""
    modes: tuple[Mode, ...] = get_args(Mode)
    for mode in modes:
        names = [name for name, about in index.items() if (about.mode or "study") == mode and _is_here(name, about)]
        for one in rescore_benchmarks(run.folder, mode, names) if names else []:
            boxes = one.predictions.column("box") if "box" in one.predictions.table.column_names else []
            moved = sum(not _same_box(outcome.box, box) for outcome, box in zip(one.outcomes, boxes, strict=False))
            counts = {"scores": one.num_changed, "boxes": moved}
            told = [f"{count:,} of {len(one.outcomes):,} {what}" for what, count in counts.items() if count]
            if told:
                yield one.benchmark.name, " and ".join(told)


def _is_here(name: str, about: AskedBenchmark) -> bool:
    """Whether the benchmark is known on this machine; the file of an own one may have stayed at home."""
    try:
        get_benchmark(about.benchmark or name)
    except (SpecError, DataError):
        return False
    return True


def _same_box(first: Sequence[float] | None, second: Sequence[float] | None) -> bool:
    if first is None or second is None:
        return first is second
    return len(first) == len(second) and all(abs(a - b) < _CLOSE for a, b in zip(first, second, strict=True))


def check_errors(runs: Mapping[str, Run]) -> Iterator[Finding]:
    """Yield the benchmarks of which some runs could not be asked or scored what others could.

    Args:
        runs: by name.
    """
    for benchmark in dict.fromkeys(one for run in runs.values() for one in run.asked):
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
    """Return the ids of the examples that could not be asked or scored; None where that cannot be read."""
    try:
        table = read_predictions(run.folder, benchmark)
    except DataError:
        return None
    if "error" not in table.column_names:
        return frozenset()
    rows = zip(table.column("example_id").to_pylist(), table.column("error").to_pylist(), strict=True)
    return frozenset(example_id for example_id, error in rows if error is not None)
