"""`eyeswap backbones list|show NAME`: what the catalog offers."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Look at the backbones of the catalog.")


@app.command("list", epilog="Example: eyeswap backbones list")
def list_all() -> None:
    """List every backbone of the catalog with its family, tap and licence of the weights."""
    from rich.console import Console
    from rich.table import Table

    from eyeswap.backbones import catalog

    table = Table("name", "family", "tap", "geometry", "licence of the weights")
    for name in catalog.names():
        entry = catalog.entry(name)
        table.add_row(name, entry.family, str(entry.tap), str(entry.geometry), entry.licence)
    Console().print(table)


@app.command(epilog="Example: eyeswap backbones show digits-vmamba")
def show(name: Annotated[str, typer.Argument(metavar="NAME", help="A name of the catalog.")]) -> None:
    """Print everything the catalog says about one backbone."""
    import yaml

    from eyeswap.backbones import catalog

    entry = catalog.entry(name)
    typer.echo(yaml.safe_dump({name: entry.model_dump(mode="json")}, sort_keys=False), nl=False)
