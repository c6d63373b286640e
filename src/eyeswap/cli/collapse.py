"""`eyeswap collapse RUNS...`: whether an arm's localization has collapsed, the evidence, and remedies to try."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eyeswap.cli.options import JsonOption, TrustOption

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from eyeswap.collapse.verdict import ArmDiagnosis
    from eyeswap.results.run import Run

EXAMPLE = "Example: eyeswap collapse runs/quickstart --probe 64"
_COLOURS = {
    "healthy": "green",
    "weak": "yellow",
    "loose boxes": "yellow",
    "wrong frame": "magenta",
    "collapsed": "bold red",
    "cannot tell": "cyan",
}


def collapse(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUNS...", help="Run folders, or a study's folder for all of its finished runs."),
    ],
    probe: Annotated[
        int,
        typer.Option(
            "--probe",
            min=0,
            metavar="N",
            help="First repeat N questions of each benchmark part with blanked and with shuffled images.",
        ),
    ] = 0,
    stabilized: Annotated[
        Path | None,
        typer.Option(
            "--write-stabilized", metavar="FILE", help="Write a study that tries the remedies on the collapsed arms."
        ),
    ] = None,
    trust_code: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Judge whether the localization of trained runs works, with the evidence.

    Each benchmark gets a verdict, and the worst one counts: healthy, weak, loose boxes (right places, wrong sizes),
    wrong frame (right boxes relative to another frame), collapsed, or cannot tell. Localization has collapsed if it is
    no better than the best constant box or than the same model on shuffled images, or far below what the run's VQA
    score predicts from its peers. docs/collapse.md has the definition.
    """
    from eyeswap.collapse.verdict import diagnose
    from eyeswap.console import open_console
    from eyeswap.results.run import load_runs

    finished = [run for run in load_runs(runs) if run.files.is_scored]
    _check(runs, finished)
    if probe:
        _probe(finished, probe, trusts_code=trust_code)
    arms = diagnose(finished)
    if as_json:
        import json

        typer.echo(json.dumps([arm.as_dict() for arm in arms], indent=1, ensure_ascii=False))
    else:
        _show(arms, open_console())
    if stabilized is not None:
        _stabilize(stabilized, finished, arms)
        typer.echo(f"stabilized arms: {stabilized}", err=True)


def _check(runs: Sequence[Path], finished: Sequence[Run]) -> None:
    from eyeswap.errors import SpecError

    if not finished:
        raise SpecError(f"{runs[0]}: no finished run here; a finished run has a scores.json")


def _probe(runs: Sequence[Run], subset: int, *, trusts_code: bool) -> None:
    """Ask every run a part of its questions again with blanked and shuffled images, unless already done."""
    from eyeswap.errors import SpecError
    from eyeswap.progress import progress
    from eyeswap.study.evaluate import Settings, evaluate_run, study_settings

    with progress() as board:
        for run in runs:
            data, _, names = study_settings(run.folder)
            if data is None:
                raise SpecError(f"{run.folder}: there is no trained model to probe (model/ is missing)")
            for images in ("blanked", "shuffled"):
                settings = Settings.model_validate({"data": data, "subset": subset, "images": images})
                evaluate_run(run.folder, names, settings, board, trusts_code=trusts_code)


def _stabilize(path: Path, runs: Sequence[Run], arms: Sequence[ArmDiagnosis]) -> None:
    from eyeswap.collapse.stabilize import write_stabilized
    from eyeswap.errors import SpecError
    from eyeswap.files import read_json

    studies = {run.files.study for run in runs}
    study = next(iter(studies)).study
    if len(studies) > 1 or not study.is_file():
        raise SpecError("--write-stabilized: the runs must belong to one study that has its study.json")
    write_stabilized(path, read_json(study), [arm.arm for arm in arms if arm.verdict == "collapsed"])


def _show(arms: Sequence[ArmDiagnosis], console: Console) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table("arm", "verdict", "VQA", "localization", "over constant box", "over shuffled", "boxes", "why")
    for arm in arms:
        signs = [run.signs for run in arm.runs]
        gains = [sign.gains for sign in signs]
        table.add_row(
            arm.arm,
            Text(arm.verdict, _COLOURS[arm.verdict]),
            _mean([sign.vqa for sign in signs]),
            _mean([sign.localization for sign in signs]),
            _mean([gain["best constant box"].value if "best constant box" in gain else None for gain in gains]),
            _mean([gain["shuffled images"].value if "shuffled images" in gain else None for gain in gains]),
            _mean([sign.boxes.diversity if sign.boxes else None for sign in signs], "{:.2f}"),
            "\n".join(arm.reasons),
        )
    console.print(table)
    console.print(
        "percent and points; boxes: entropy relative to that of the ground-truth boxes; see docs/collapse.md",
        style="dim",
        highlight=False,
    )


def _mean(values: Sequence[Any], form: str = "{:.1f}") -> str:
    known = [value for value in values if value is not None]
    return form.format(sum(known) / len(known)) if known else ""
