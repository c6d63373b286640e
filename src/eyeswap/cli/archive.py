"""`eyeswap export STUDY_DIR` and `eyeswap import FILE`: results that travel as one file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EXPORT_EXAMPLE = "Example: eyeswap export runs/quickstart --out quickstart.eyeswap.zip"
IMPORT_EXAMPLE = "Example: eyeswap import quickstart.eyeswap.zip --runs pooled"


def export(
    study_dir: Annotated[Path, typer.Argument(metavar="STUDY_DIR", help="Folder of a study, such as runs/quickstart.")],
    out: Annotated[Path | None, typer.Option(help="File to write; by default STUDY.eyeswap.zip here.")] = None,
) -> None:
    """Pack specs, environments, scores, predictions and report of a study into one small file."""
    from eyeswap.results.pool import SUFFIX, export_study

    archive = out or Path(f"{study_dir.resolve().name}{SUFFIX}")
    digest = export_study(study_dir, archive)
    typer.echo(f"{archive}: {archive.stat().st_size / 2**20:.1f} MiB, digest {digest}")


def import_(
    archive: Annotated[Path, typer.Argument(metavar="FILE", help="An archive made by `eyeswap export`.")],
    runs: Annotated[Path, typer.Option(help="Folder of all studies' runs.")] = Path("runs"),
) -> None:
    """Verify an archive and merge its runs into the study of the same name."""
    from eyeswap.results.pool import import_study

    done = import_study(archive, runs)
    typer.echo(f"digest {done.digest}")
    for run in done.added:
        typer.echo(f"added  {run}")
    for run in done.known:
        typer.echo(f"known  {run} (the same results)")
    typer.echo(f"eyeswap report {done.folder} writes the report of all runs together")
