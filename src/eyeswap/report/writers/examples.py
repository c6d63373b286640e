"""The examples in the page: a balanced random sample with embedded images.

Every benchmark contributes the same number. Within a benchmark, half are drawn from the examples on which the arms
disagree and half from the others, as far as there are enough: readers want to see disagreement, and the page says that
it is overrepresented.
"""

from __future__ import annotations

import base64
import io
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from eyeswap.errors import DataError
from eyeswap.evaluation.counting import spelled_out
from eyeswap.images import open_image
from eyeswap.report.analysis.pairs import RIGHT
from eyeswap.report.analysis.study import StudyResults
from eyeswap.report.style import NUM_COLORS
from eyeswap.results.scores import Predictions

Looks = Mapping[tuple[str, int, int], dict[str, Any]]  # of (arm, position of the benchmark, row), for the script

NUM_EXAMPLES = 60
IMAGE_BYTES = 5_000_000  # for all images of a page, before base64
STEPS = ((640, 85), (480, 80), (360, 75), (256, 70), (192, 60))  # longest side in pixels, JPEG quality
MAX_PNG_PX = 320  # images up to this size stay lossless


def choose_examples(results: StudyResults, total: int = NUM_EXAMPLES) -> list[tuple[int, int]]:
    """Choose the examples of the page: (position of the benchmark, row among its predictions) of each."""
    runs = [arm.runs[0] for arm in results.finished_arms]
    chosen: list[tuple[int, int]] = []
    for position in range(len(results.benchmarks)):
        share = total // len(results.benchmarks) + (position < total % len(results.benchmarks))
        per_arm = [run.predictions[position].score for run in runs]
        chosen += [(position, row) for row in choose_rows(per_arm, share, seed=position)]
    return chosen


def example_data(results: StudyResults, looks: Looks | None = None, image_bytes: int = IMAGE_BYTES) -> dict[str, Any]:
    """Return benchmarks, arms, images (as data URIs) and examples as JSON content.

    Args:
        results: the arms and their runs.
        looks: where in the image each answer comes from, if that was looked at.
        image_bytes: limit for all images together, before base64.
    """
    arms = [(index, arm) for index, arm in enumerate(results.arms) if arm.finished]
    runs = [arm.runs[0] for _, arm in arms]
    chosen = choose_examples(results)
    looks = looks or {}
    paths = list(dict.fromkeys(str(runs[0].predictions[position].image[row]) for position, row in chosen))
    budget = image_bytes // max(len(paths), 1)
    return {
        "benchmarks": [
            {"title": entry.title, "group": entry.group, "metric": entry.metric} for entry in results.benchmarks
        ],
        "arms": [{"name": arm.name, "color": f"var(--arm-{index % NUM_COLORS})"} for index, arm in arms],
        "hasLooks": bool(looks),
        "images": [_embedded(results.data_root / path, budget) for path in paths],
        "examples": [
            _example(
                position,
                row,
                paths,
                [run.predictions[position] for run in runs],
                [looks.get((arm.name, position, row)) for _, arm in arms],
            )
            for position, row in chosen
        ],
    }


def choose_rows(scores: list[Any], share: int, seed: int) -> list[int]:
    """Choose random rows, half of them where some arms are correct and others are not, as far as there are enough.

    Args:
        scores: one array ``[n]`` per arm.
        share: number of rows to choose; fewer are returned if there are fewer.
        seed: random seed.
    """
    right = np.stack(scores) >= RIGHT  # [arms, n]
    generator = np.random.default_rng(seed)
    disagree = np.flatnonzero(right.any(0) & ~right.all(0))
    agree = np.flatnonzero(right.all(0) | ~right.any(0))
    num_disagree = max(min(len(disagree), (share + 1) // 2), min(len(disagree), share - len(agree)))
    parts = [
        generator.permutation(disagree)[:num_disagree],
        generator.permutation(agree)[: max(share - num_disagree, 0)],
    ]
    return [int(row) for row in generator.permutation(np.concatenate(parts))]


def _example(
    position: int, row: int, paths: list[str], answers: list[Predictions], looks: list[dict[str, Any] | None]
) -> dict[str, Any]:
    def cell(name: str, predictions: Predictions) -> Any:
        return predictions.table.column(name)[row].as_py()

    first = answers[0]
    details = str(cell("details", first)) if "details" in first.table.column_names else None
    truth_text, truth_box = read_truth(str(cell("truth", first)))
    return {
        "benchmark": position,
        "image": paths.index(str(first.image[row])),
        "question": cell("question", first),
        "subset": cell("subset", first),
        "truth": spelled_out(truth_text, first.name, details),
        "truthBox": truth_box,
        "answers": [
            {
                "text": spelled_out(str(cell("answer", of_arm)), of_arm.name, details),
                "right": float(of_arm.score[row]) >= RIGHT,
                "score": round(100 * float(of_arm.score[row])),
                "box": _rounded(cell("box", of_arm)),
                "iou": cell("iou", of_arm),
                "invalid": bool(cell("invalid", of_arm)),
                "look": look,
            }
            for of_arm, look in zip(answers, looks, strict=True)
        ],
    }


def read_truth(truth: str) -> tuple[str, list[float] | None]:
    """Return the answer key of an example as (text, box): a label, human answers with counts, or a box in 0..1."""
    try:
        value = json.loads(truth)
    except json.JSONDecodeError:
        return truth, None
    if not isinstance(value, list):
        return str(value), None
    if len(value) == 4 and all(isinstance(item, int | float) for item in value):
        return "[" + ", ".join(f"{item:.2f}" for item in value) + "]", _rounded(value)
    counted = Counter(str(item) for item in value).most_common()
    return ", ".join(f"{answer} ×{times}" if times > 1 else answer for answer, times in counted), None  # noqa: RUF001


def _rounded(box: list[float] | None) -> list[float] | None:
    return [round(float(value), 4) for value in box] if box else None


def _embedded(path: Path, budget: int) -> dict[str, Any] | None:
    """Return an image as a data URI with its size, shrunk until it fits the budget; None if unreadable."""
    try:
        image = open_image(path)
    except DataError:
        return None  # predictions may be here without their data set; the page says that the image is missing
    width, height = image.size
    if max(width, height) <= MAX_PNG_PX and len(png := _encoded(image, "PNG")) <= budget:
        return {"uri": _data_uri("png", png), "width": width, "height": height}
    for side, quality in STEPS:
        small = image.copy()
        small.thumbnail((side, side), Image.Resampling.LANCZOS)
        jpeg = _encoded(small, "JPEG", quality=quality, optimize=True)
        if len(jpeg) <= budget:
            break
    return {"uri": _data_uri("jpeg", jpeg), "width": width, "height": height}


def _encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
