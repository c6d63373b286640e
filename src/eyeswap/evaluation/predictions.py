"""The predictions of a run as files: one row an example, one parquet file a benchmark."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

_NUMBERS = pa.list_(pa.float64())

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
        ("original_iou", pa.float64()),
        ("canvas_iou", pa.float64()),
        ("error", pa.string()),
    ]
)


def predictions_path(run_dir: Path, benchmark: str) -> Path:
    """Return the file that holds a benchmark's predictions."""
    return run_dir / "predictions" / f"{benchmark}.parquet"
