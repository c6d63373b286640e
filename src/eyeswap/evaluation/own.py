"""Benchmarks of your own: a YAML file that names a metric, and JSON lines with one question a row.

    metric: exact-match          # or another of `METRICS`
    data: street-signs.jsonl     # path relative to this file
    images: photos               # folder that image names are relative to; this file's folder unless given
    prompt: Answer with one word.  # last line of what the user says; the metric's own wording unless given
    title: Street signs          # for tables; the file name unless given
    group: vqa                   # average that it counts in; localization for boxes, else vqa, unless given
    train: signs-train.jsonl     # rows on which the trivial baseline is found; a blind constant unless given

A row has ``id``, ``image``, ``question``, what its metric needs (below), and perhaps ``kind`` and ``subset`` for the
breakdowns. The benchmark's name is the file name without its ending.
"""

from __future__ import annotations

import re
from pathlib import Path

from eyeswap.data.formats.record import Record, records
from eyeswap.errors import DataError, SpecError, nearest
from eyeswap.evaluation.benchmark import Group
from eyeswap.evaluation.own_metrics import METRICS, BoxAccuracy, MultipleChoice, OwnBenchmark, choices_of
from eyeswap.files import read_json_lines
from eyeswap.yaml_reader import read_yaml

KEYS = ("metric", "data", "images", "prompt", "title", "group", "train")
GROUPS: tuple[Group, ...] = ("vqa", "localization")
_NAME = re.compile(r"[a-z0-9]+([-+][a-z0-9]+)*")


def load_own(path: Path) -> OwnBenchmark:
    """Read the YAML file of an own benchmark, and its rows once, so that mistakes show before anything runs.

    Raises:
        SpecError: if the file is missing or not YAML, or asks for what does not exist.
        DataError: naming file and field, or file and row.
    """
    header = Record.of(read_yaml(path), str(path))
    for key in header.values:
        if key not in KEYS:
            raise SpecError(f"{path}: unknown key {key!r}. {nearest(str(key), KEYS)}")
    if not _NAME.fullmatch(path.stem):
        raise SpecError(f"{path}: the file name is the benchmark's name and must be kebab-case, such as my-signs.yaml")
    metric = header.text("metric")
    make = _metric_class(path, metric)
    group = header.text("group", "localization" if make is BoxAccuracy else "vqa")
    if group not in GROUPS:
        raise SpecError(f"{path}: group: {nearest(group, GROUPS)}")
    folder = path.resolve().parent
    data = folder / header.text("data")
    rows = list(records(read_json_lines(data), data))
    if not rows:
        raise DataError(f"{data}: has no rows")
    benchmark = make(
        name=path.stem,
        title=header.text("title", path.stem),
        family="",
        num_published=len(rows),
        path=path,
        section="localization" if group == "localization" else "vqa",
        metric_name=metric,
        prompt=header.text("prompt") if "prompt" in header.values else None,
        data=data,
        train=folder / header.text("train") if "train" in header.values else None,
        images=folder / header.text("images", "."),
        most_choices=max(len(choices_of(row)) for row in rows) if make is MultipleChoice else 0,
    )
    for split in ("eval", "train") if benchmark.train else ("eval",):
        benchmark.family_examples(folder, split)
    return benchmark


def _metric_class(path: Path, metric: str) -> type[OwnBenchmark]:
    threshold = re.fullmatch(r"accuracy-iou-(0\.\d+|1|1\.0)", metric)
    if threshold and float(threshold[1]) > 0:
        return BoxAccuracy
    if metric not in METRICS:
        raise SpecError(f"{path}: metric {metric!r} does not exist. {nearest(metric, METRICS)}")
    return METRICS[metric]
