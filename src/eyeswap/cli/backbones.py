"""`eyeswap backbones list|show NAME`: what the catalog offers."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Look at the backbones of the catalog.")


@app.command("list", epilog="Example: eyeswap backbones list vmamba")
def list_all(
    part: Annotated[str, typer.Argument(metavar="[PART]", help="Only names that contain this.")] = "",
) -> None:
    """List the backbones of the catalog: where each is read, how it sees images, whose weights it takes."""
    from rich.table import Column, Table

    from eyeswap.backbones import catalog
    from eyeswap.cli.console import open_console
    from eyeswap.errors import SpecError

    table = Table(Column("name", no_wrap=True), "tap", "geometry", "trained for", "on", "licence of the weights")
    for name in catalog.names():
        if part in name:
            entry = catalog.entry(name)
            height, width = entry.geometry.canvas
            tap = str(entry.tap) if isinstance(entry.tap, int) else ",".join(map(str, entry.tap))
            geometry = f"{entry.geometry.strategy} {height}x{width}"
            table.add_row(name, tap, geometry, entry.objective, entry.pretraining, entry.licence)
    if not table.rows:
        raise SpecError(f'no backbone has "{part}" in its name; `eyeswap backbones list` shows all')
    open_console().print(table)


@app.command(epilog="Example: eyeswap backbones show digits-vmamba")
def show(name: Annotated[str, typer.Argument(metavar="NAME", help="A name of the catalog.")]) -> None:
    """Print all the catalog says about one backbone, and its size as built."""
    import torch
    import yaml

    from eyeswap.backbones import catalog

    entry = catalog.entry(name)
    with torch.device("meta"):
        network = entry.build()
    rows, columns = network.token_grid(*entry.geometry.canvas)
    typer.echo(f"# {rows}x{columns} = {rows * columns} visual tokens of width {network.embed_dim}")
    typer.echo(f"# {network.num_parameters:,} parameters up to the tap")
    typer.echo(f"# {entry.geometry.describe()}")
    about = entry.model_dump(mode="json", exclude={"name"})
    typer.echo(yaml.safe_dump({name: about}, sort_keys=False, allow_unicode=True), nl=False)
