"""Planned runs as files, by hand: begun, trained, or done as their study asks."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from eyeswap.files import write_json
from eyeswap.planning.plan import PlannedRun
from eyeswap.runs.record import AskedBenchmark, RunRecord, write_index
from eyeswap.runs.recorded import write_record


def record_of(run: PlannedRun, **fields: Any) -> RunRecord:
    """Return the least that a run records."""
    least = {"arm": run.arm, "seed": run.seed, "recipe_digest": run.study.recipe.digest}
    parts = {"backbone": {}, "llm": {}, "connector": {}, "model": run.model, "benchmarks": run.study.benchmarks}
    return RunRecord.model_validate({**least, **parts, **fields})


def begin_run(run: PlannedRun, **fields: Any) -> None:
    """Write a run's record, as training does when it begins."""
    write_record(run.files.record, record_of(run, **fields))


def finish_run(run: PlannedRun) -> None:
    """Write a run that was trained, asked and scored as its study asks; its answers and scores are empty."""
    begin_run(run)
    run.files.model.mkdir(exist_ok=True)
    index = {}
    for benchmark in run.benchmarks:
        about = {"group": benchmark.group, "title": benchmark.title, "metric": benchmark.metric, "num_examples": 1}
        asked = {"identity": benchmark.identity, "subset": run.study.subset, "mode": "study"}
        index[benchmark.name] = AskedBenchmark.model_validate({**about, **asked})
        run.files.predictions.mkdir(exist_ok=True)
        pq.write_table(pa.table({"example_id": ["x"]}), run.files.predictions_of(benchmark.name))
    write_index(run.files.benchmarks, index)
    write_json(run.files.scores, {"benchmarks": {}, "averages": {}})
