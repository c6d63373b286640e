"""`eyeswap profile`: latency and memory of vision, connector, prefill and decoding by image resolution."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eyeswap.cli.options import JsonOption, RunsOption

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from eyeswap.planning.profile import Cell

EXAMPLE = "Example: eyeswap profile --backbone vmamba-tiny-s1l8 --backbone in21k-vit-s --side 224 --side 512"
CPU_LONGEST_S, GPU_LONGEST_S = 5.0, 20.0


def profile(
    backbone: Annotated[
        list[str] | None,
        typer.Option("--backbone", metavar="NAME", help="Catalog name; repeatable. By default those of Figure 4."),
    ] = None,
    side: Annotated[
        list[int] | None,
        typer.Option(
            "--side", min=32, metavar="PX", help="Image side; repeatable. By default those of Figure 4, 224 to 6144."
        ),
    ] = None,
    study: Annotated[
        Path | None,
        typer.Option("--study", metavar="FILE", help="Measure this study's arms; its report will show the result."),
    ] = None,
    runs: RunsOption = Path("runs"),
    llm: Annotated[
        str | None,
        typer.Option(
            "--llm", metavar="NAME", help="Architecture of the LLM: vicuna-7b (default on a GPU) or digits-llm."
        ),
    ] = None,
    batch: Annotated[
        int | None, typer.Option("--batch", min=1, metavar="N", help="Batch size of the throughput measurement.")
    ] = None,
    longest: Annotated[
        float | None,
        typer.Option(
            "--longest",
            metavar="S",
            help="Skip larger images once a measurement took longer than S seconds; 20 on a GPU, 5 on a CPU.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="DIR",
            file_okay=False,
            help="Folder for profile.csv and profile.png; by default ./profile, or the study's folder.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure latency, memory and throughput on this machine by image resolution.

    Covers vision encoder, connector, prefill and decoding, with random weights for the LLM. On a CPU the default is the
    part of Figure 4's grid that finishes within minutes.
    """
    import torch

    from eyeswap.console import open_console, progress_console
    from eyeswap.planning.profile import (
        BACKBONES,
        CPU_BACKBONES,
        CPU_SIDES,
        SIDES,
        Setting,
        build_llm,
        study_connectors,
        study_grid,
        write_csv,
    )
    from eyeswap.planning.profile import profile as measure
    from eyeswap.planning.spec import load_study
    from eyeswap.progress import progress
    from eyeswap.report.figures.profile import draw_profile
    from eyeswap.runs.environment import cpu_model
    from eyeswap.runs.folder import PROFILE_FILE

    on_gpu = torch.cuda.is_available()
    device, dtype = (torch.device("cuda"), torch.bfloat16) if on_gpu else (torch.device("cpu"), torch.float32)
    longest = longest or (GPU_LONGEST_S if on_gpu else CPU_LONGEST_S)
    setting = Setting(device, dtype, batch or (8 if on_gpu else 2), longest_s=longest)
    llm_name = llm or ("vicuna-7b" if on_gpu else "digits-llm")
    names: tuple[str, ...] = BACKBONES if on_gpu else CPU_BACKBONES
    sides: tuple[int, ...] = SIDES if on_gpu else CPU_SIDES
    folder = out or Path("profile")
    connectors: Mapping[str, Sequence[str]] = {}
    console = open_console()
    if study is not None:
        profiled = load_study(study)
        names, sides = study_grid(profiled)
        connectors = study_connectors(profiled)
        folder = out or runs / profiled.name
    elif not (on_gpu or backbone or side or as_json):
        console.print(
            f"on a CPU: {len(names)} of Figure 4's {len(BACKBONES)} backbones, up to {sides[-1]:,} of "
            f"{SIDES[-1]:,} px; choose others with --backbone and --side",
            highlight=False,
        )
    names, sides = tuple(backbone or names), tuple(side or sides)
    machine = torch.cuda.get_device_name() if on_gpu else f"{cpu_model()}, {torch.get_num_threads()} threads"
    title = f"{machine}; torch {torch.__version__}, {str(dtype).removeprefix('torch.')}, LLM {llm_name}, batch 1"
    cells: list[Cell] = []
    with progress(progress_console(stderr=as_json)) as board:
        task = board.task("profile", sum(len(connectors.get(name, ("",))) for name in names) * len(sides))
        for cell in measure(names, sides, build_llm(llm_name, setting), setting, connectors):
            cells.append(cell)
            write_csv(folder / PROFILE_FILE, cells)  # after every cell, so that an interruption loses nothing
            task.advance(1, note=f"{cell.backbone} {cell.side_px}")
    draw_profile(cells, title, folder / "profile.png")
    if as_json:
        typer.echo(json.dumps({"title": title, "cells": [asdict(cell) for cell in cells]}, indent=1))
        return
    console.print(title, style="bold", highlight=False)
    console.print(table_of(cells, console.width, beside_published=on_gpu and llm_name == "vicuna-7b"))
    _print_notes(console, cells)
    console.print(f"{folder / PROFILE_FILE} and {folder / 'profile.png'}", highlight=False, soft_wrap=True)


def table_of(cells: Sequence[Cell], width: int, beside_published: bool) -> Table:
    """Return the measurements as a table, times in milliseconds, optionally beside the points of Figure 4."""
    from eyeswap.cli.tables import fitted_table
    from eyeswap.planning.profile import IN_FIGURE
    from eyeswap.results.published import published_profile

    heads = {
        "backbone": 0, "side": 0, "tokens": 2, "vision ms": 0, "connector ms": 3, "prefill ms": 1, "decode ms": 1,
        "images/s": 2, "peak GiB": 1,
    }  # fmt: skip
    if beside_published:
        heads |= {"Figure 4: vision ms": 0, "Figure 4: first token ms": 1, "Figure 4: peak GB": 3}
    figure = {(point.model, point.side_px): point for point in published_profile()}
    rows = []
    for cell in cells:
        if cell.problem:
            continue
        seconds = (cell.vision_s, cell.connector_s, cell.prefill_s, cell.decode_s)
        row = [
            cell.title, str(cell.side_px), f"{cell.tokens}{'*' if cell.beyond_positions else ''}",
            *(_ms(value) for value in seconds), f"{cell.images_per_s:.1f}",
            "" if cell.peak_bytes is None else f"{cell.peak_bytes / 2**30:.1f}",
        ]  # fmt: skip
        if beside_published:
            point = figure.get((IN_FIGURE.get(cell.backbone, ""), cell.side_px))
            row += [
                "" if point is None else _ms(point.gpu_vision_s),
                "" if point is None else _ms(point.end_to_end_s),
                "" if point is None else f"{point.peak_gb:.1f}",
            ]
        rows.append(row)
    return fitted_table(heads, rows, width)


def _print_notes(console: Console, cells: Sequence[Cell]) -> None:
    """Print why cells are missing from the table, one line for all sizes of a backbone that share a reason."""
    if any(cell.beyond_positions for cell in cells):
        console.print("* more tokens than the LLM has positions", highlight=False)
    missing: dict[tuple[str, str], list[int]] = {}
    for cell in cells:
        if cell.problem:
            missing.setdefault((cell.title, cell.problem), []).append(cell.side_px)
    for (name, problem), sides in missing.items():
        console.print(f"{name} at {', '.join(map(str, sides))} px: {problem}", highlight=False, soft_wrap=True)


def _ms(seconds: float | None) -> str:
    milliseconds = (seconds or 0.0) * 1e3
    return f"{milliseconds:.1f}" if milliseconds < 1000 else f"{milliseconds:,.0f}"
