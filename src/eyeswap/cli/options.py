"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
RunsOption = Annotated[
    Path, typer.Option("--runs", metavar="DIR", file_okay=False, help="Folder that holds the runs of all studies.")
]
GpuOption = Annotated[
    str, typer.Option("--gpu", metavar="NAME", help="h200, h100, a100, b200, ..., or TFLOP/s:GiB such as 71:24.")
]
GpusOption = Annotated[int, typer.Option("--gpus", min=1, metavar="N", help="GPUs that train one run together.")]
MfuOption = Annotated[
    float,
    typer.Option("--mfu", metavar="SHARE", help="Model FLOPs utilization: training's share of the GPU's bf16 peak."),
]
TextOption = Annotated[
    float | None,
    typer.Option("--text-tokens", metavar="N", help="Mean text tokens per conversation; 300 by default for real data."),
]
TrustOption = Annotated[bool, typer.Option("--trust-code", help="Run the model's own code, of encoder and connector.")]
