"""The predictions of a run on disk: one row per example, one parquet file per benchmark.

While an evaluation runs, each batch of answers is a small file in ``predictions/parts/``, written under a temporary
name and renamed. Killing a process loses at most its current batch, and unfinished predictions can be read and scored
at any time. When all questions are answered the rows become ``predictions/<benchmark>.parquet``, in the order of the
benchmark's examples. Rows are identified by (benchmark, example id), however many processes wrote them.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from eyeswap.errors import DataError, MissingFileError
from eyeswap.evaluation.frames import TEST_BOX_FRAMES
from eyeswap.files import atomic_path, digest
from eyeswap.recipe import TestBoxFrame
from eyeswap.runs.folder import RunFolder

_NUMBERS = pa.list_(pa.float64())


def iou_column(frame: TestBoxFrame) -> str:
    """Return the column with the IoU in a box frame, such as ``padded_square_iou``."""
    return f"{frame.replace('-', '_')}_iou"


SCHEMA = pa.schema(
    [
        ("example_id", pa.string()),
        ("image", pa.string()),
        ("image_id", pa.string()),
        ("subset", pa.string()),
        ("kind", pa.string()),
        ("question", pa.string()),
        ("prompt", pa.string()),
        ("answer", pa.string()),
        ("truth", pa.string()),
        ("details", pa.string()),
        ("score", pa.float64()),
        ("box", _NUMBERS),
        ("iou", pa.float64()),
        ("invalid", pa.bool_()),
        ("margin", pa.float64()),
        ("num_tokens", pa.int32()),
        ("latency_s", pa.float64()),
        ("baseline_score", pa.float64()),
        ("probabilities", _NUMBERS),
        ("lenient_box", _NUMBERS),
        ("lenient_iou", pa.float64()),
        *((iou_column(frame), pa.float64()) for frame in TEST_BOX_FRAMES),
        ("true_box_px", _NUMBERS),
        ("image_width", pa.int32()),
        ("image_height", pa.int32()),
        ("error", pa.string()),
    ]
)
_PART_SCHEMA = pa.schema([("benchmark", pa.string()), *SCHEMA])

Key = tuple[str, str]  # benchmark, example id
Content = tuple[Any, ...]  # of the columns below
CONTENT = ("example_id", "image", "prompt", "truth")  # these identify a question


def write_part(run_dir: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the rows of one batch; each has the columns of `SCHEMA` and ``benchmark``."""
    _write_part(run_dir, pa.Table.from_pylist(list(rows), schema=_PART_SCHEMA))


def questions_digest(mode: str, box_frame: str | None, questions: Iterable[Content]) -> str:
    """Return the sha256 (hex) of a benchmark's questions and of how they are scored.

    Args:
        mode: ``study`` or ``official``.
        box_frame: frame in which boxes are scored; None for other answers.
        questions: the columns `CONTENT` of each, in the order of the benchmark's examples.
    """
    rows = list(questions)
    return digest([mode, box_frame, [list(row[:-1]) for row in rows], [json.loads(truth) for *_, truth in rows]])


def take_back(run_dir: Path, benchmark: str, keep: Container[Content]) -> None:
    """Withdraw the answers to a benchmark so that its questions are asked again, except for some questions.

    Args:
        run_dir: the run's folder.
        benchmark: name of the benchmark.
        keep: the columns `CONTENT` of the questions whose answers stay.

    Raises:
        DataError: if a file cannot be read.
    """
    files = RunFolder(run_dir)
    try:
        table = read_predictions(run_dir, benchmark)
    except MissingFileError:
        return
    kept, seen = [], set()
    for row, content in enumerate(zip(*(table.column(name).to_pylist() for name in CONTENT), strict=True)):
        if content in keep and content not in seen:
            kept.append(row)
            seen.add(content)
    before = sorted(files.parts.glob("part-*.parquet"))
    if kept:
        names = pa.array([benchmark] * len(kept), pa.string())
        _write_part(run_dir, table.take(kept).add_column(0, "benchmark", names))
    files.predictions_of(benchmark).unlink(missing_ok=True)
    for path in before:
        part = _read(path)
        others = part.filter(pc.not_equal(part.column("benchmark"), benchmark))
        if others.num_rows == 0:
            path.unlink()
        elif others.num_rows < part.num_rows:
            with atomic_path(path) as temporary:
                pq.write_table(others, temporary)


def kept_keys(run_dir: Path) -> set[Key]:
    """Return the (benchmark, example id) of every row in the parts.

    Raises:
        DataError: naming a part that cannot be read.
    """
    table = _read_parts(run_dir, ["benchmark", "example_id"])
    return set(zip(*(table.column(name).to_pylist() for name in table.column_names), strict=True))


def read_predictions(run_dir: Path, benchmark: str) -> pa.Table:
    """Read a benchmark's predictions; of an unfinished evaluation, those made so far.

    Raises:
        MissingFileError: if there are none.
        DataError: if a file cannot be read.
    """
    path = RunFolder(run_dir).predictions_of(benchmark)
    if path.is_file():
        return _read(path)
    table = _read_parts(run_dir, None, benchmark)
    if table.num_rows == 0:
        raise MissingFileError(f"{path}: no such file, but benchmarks.json names it; evaluate this run again")
    return table.drop_columns(["benchmark"])


def is_unfinished(run_dir: Path) -> bool:
    """Return whether an evaluation was started and is not finished; its answers so far can be read."""
    return any(RunFolder(run_dir).parts.glob("part-*.parquet"))


def num_answered(run_dir: Path, benchmarks: Iterable[str]) -> dict[str, int]:
    """Return the number of answered questions of each benchmark, also while other processes are writing.

    Raises:
        DataError: if a finished file cannot be read.
    """
    try:
        in_parts = Counter(_read_parts(run_dir, ["benchmark"]).column("benchmark").to_pylist())
    except DataError:  # another process is merging the parts
        in_parts = Counter()
    counts = {}
    for name in benchmarks:
        path = RunFolder(run_dir).predictions_of(name)
        counts[name] = _num_rows(path) if path.is_file() else in_parts[name]
    return counts


def merge_parts(run_dir: Path, example_ids: Mapping[str, Iterable[str]]) -> None:
    """Write ``predictions/<benchmark>.parquet`` from the parts, then remove the parts.

    Args:
        run_dir: the run's folder.
        example_ids: example ids of each benchmark, in the order of the rows to be written.

    Raises:
        DataError: if an example is missing.
    """
    files, table = RunFolder(run_dir), _read_parts(run_dir)
    keys = zip(*(table.column(name).to_pylist() for name in ("benchmark", "example_id")), strict=True)
    places = {key: row for row, key in enumerate(keys)}
    for benchmark, ids in example_ids.items():
        try:
            order = [places[benchmark, example_id] for example_id in ids]
        except KeyError as error:
            raise DataError(
                f"{files.parts}: no answer to {' '.join(error.args[0])}; run the evaluation again"
            ) from None
        with atomic_path(RunFolder(run_dir).predictions_of(benchmark)) as temporary:
            pq.write_table(table.take(order).drop_columns(["benchmark"]), temporary)
    shutil.rmtree(files.parts, ignore_errors=True)
    for path in files.predictions.glob(".*.tmp"):  # left by killed processes
        path.unlink(missing_ok=True)


def _write_part(run_dir: Path, table: pa.Table) -> None:
    name = digest([table.column("benchmark").to_pylist(), table.column("example_id").to_pylist()])
    with atomic_path(RunFolder(run_dir).parts / f"part-{name[:20]}.parquet") as temporary:
        pq.write_table(table, temporary)


def _read_parts(run_dir: Path, columns: list[str] | None = None, benchmark: str | None = None) -> pa.Table:
    tables = [_read(path, columns, benchmark) for path in sorted(RunFolder(run_dir).parts.glob("part-*.parquet"))]
    if not tables:
        return _PART_SCHEMA.empty_table().select(columns or _PART_SCHEMA.names)
    return pa.concat_tables(tables)


def _num_rows(path: Path) -> int:
    try:
        return int(pq.read_metadata(path).num_rows)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable parquet file: {error}") from None


def _read(path: Path, columns: list[str] | None = None, benchmark: str | None = None) -> pa.Table:
    wanted = None if benchmark is None else [("benchmark", "=", benchmark)]
    try:
        table = pq.read_table(path, columns=columns, filters=wanted)
        table.validate(full=True)  # text that is not UTF-8 would fail only when it is used
        return table
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # the last for names of columns
        hint = "; delete it to have its questions asked again"
        raise DataError(f"{path}: not a readable parquet file: {error}{hint if columns else ''}") from None
