"""`eyeswap profile`: latency and memory of vision, connector, prefill and decoding against resolution."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from eyeswap.study.profile import Cell

EXAMPLE = "Example: eyeswap profile --backbone vmamba-tiny-s1l8 --backbone in21k-vit-s --side 224 --side 512"


def profile(
    backbone: Annotated[list[str] | None, typer.Option(help="Catalog name; repeat it. Default: Figure 4's.")] = None,
    side: Annotated[list[int] | None, typer.Option(min=32, help="Pixels; repeat it. Default: 224 to 6144.")] = None,
    llm: Annotated[
        str | None,
        typer.Option(help='LLM of this shape, fresh weights. Default: "vicuna-7b" on a GPU, else "digits-llm".'),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images of the throughput measurement.")] = 8,
    longest: Annotated[float, typer.Option(help="Leave out larger images once a cell took longer, seconds.")] = 20.0,
    out: Annotated[Path, typer.Option(help="Where profile.csv and profile.png go.")] = Path("profile"),
) -> None:
    """Measure this machine: vision, connector, prefill, decoding, memory and throughput against resolution."""
    import torch

    from eyeswap.cli.console import open_console
    from eyeswap.progress import progress
    from eyeswap.report.profile_figure import draw_profile
    from eyeswap.study.environment import cpu_model
    from eyeswap.study.profile import BACKBONES, SIDES, Setting, build_llm, write_csv
    from eyeswap.study.profile import profile as measure

    on_gpu = torch.cuda.is_available()
    device, dtype = (torch.device("cuda"), torch.bfloat16) if on_gpu else (torch.device("cpu"), torch.float32)
    setting = Setting(device, dtype, batch, longest_s=longest)
    shape = llm or ("vicuna-7b" if on_gpu else "digits-llm")
    names, sides = backbone or list(BACKBONES), side or list(SIDES)
    where = torch.cuda.get_device_name() if on_gpu else f"{cpu_model()}, {torch.get_num_threads()} threads"
    title = f"{where}; torch {torch.__version__}, {str(dtype).removeprefix('torch.')}, LLM {shape}, batch 1"
    console = open_console()
    cells: list[Cell] = []
    with progress(console) as board:
        task = board.task("profile", len(names) * len(sides))
        for cell in measure(names, sides, build_llm(shape, setting), setting):
            cells.append(cell)
            write_csv(out / "profile.csv", cells)  # whatever happens later, this much is there
            task.advance(1, note=f"{cell.backbone} {cell.side_px}")
    draw_profile(cells, title, out / "profile.png")
    console.print(_table(title, cells))
    for cell in cells:
        if cell.problem:
            console.print(f"{cell.backbone} at {cell.side_px}: {cell.problem}", highlight=False, soft_wrap=True)
    console.print(f"{out / 'profile.csv'} and {out / 'profile.png'}", highlight=False, soft_wrap=True)


def _table(title: str, cells: list[Cell]) -> Table:
    from rich.table import Column, Table

    heads = ("side", "tokens", "vision ms", "connect ms", "prefill ms", "decode ms", "images/s", "peak GiB")
    table = Table(Column("backbone", no_wrap=True), *(Column(head, justify="right") for head in heads), title=title)
    for cell in cells:
        if cell.problem:
            continue
        seconds = (cell.vision_s, cell.connector_s, cell.prefill_s, cell.decode_s)
        tokens = f"{cell.tokens}{'*' if cell.beyond_positions else ''}"
        table.add_row(
            cell.backbone, str(cell.side_px), tokens, *(f"{(value or 0) * 1e3:.1f}" for value in seconds),
            f"{cell.images_per_s:.1f}", "" if cell.peak_bytes is None else f"{cell.peak_bytes / 2**30:.1f}",
        )  # fmt: skip
    if any(cell.beyond_positions for cell in cells):
        table.caption = "* more tokens than the LLM was made for"
    return table
