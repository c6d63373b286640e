"""`eyeswap adapt`: train a backbone for detection or segmentation, and save it as a backbone again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from eyeswap.cli.options import JsonOption

EXAMPLE = "Example: eyeswap adapt --objective detection --backbone digits-vmamba --data digits"


def adapt(
    objective: Annotated[
        Literal["detection", "segmentation"], typer.Option("--objective", help="What to train the backbone for.")
    ],
    backbone: Annotated[str, typer.Option("--backbone", metavar="NAME", help="A backbone of the catalog.")],
    data: Annotated[
        str,
        typer.Option("--data", metavar="DATA", help="digits, or a folder in COCO's or ADE20K's official layout."),
    ] = "digits",
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", file_okay=False, help="Folder for the weights and their card.")
    ] = Path("adapted"),
    steps: Annotated[int | None, typer.Option("--steps", min=1, metavar="N", help="Optimizer steps.")] = None,
    recipe: Annotated[
        Path | None, typer.Option("--recipe", metavar="FILE", help="YAML file with keys of the adaptation recipe.")
    ] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the recipe; repeatable.")
    ] = None,
    weights: Annotated[
        Path | None, typer.Option("--weights", metavar="FILE", help="Weights to start from; by default the official.")
    ] = None,
    tap: Annotated[str | None, typer.Option("--tap", metavar="TAP", help="Where the features are read.")] = None,
    geometry: Annotated[
        str | None, typer.Option("--geometry", metavar="NAME", help="Image geometry, such as letterbox-512.")
    ] = None,
    device: Annotated[str, typer.Option("--device", metavar="NAME", help="cpu, cuda, cuda:1, ...")] = "",
    as_json: JsonOption = False,
) -> None:
    """Adapt a backbone to detection or segmentation with one recipe for all families.

    Backbone, feature pyramid and head are trained together; the backbone is saved under its official names and can be
    an arm of a study. An interrupted run resumes with the same command.
    """
    from eyeswap.adaptation.adapt import Request
    from eyeswap.adaptation.adapt import adapt as adapt_backbone
    from eyeswap.adaptation.recipe import load_recipe
    from eyeswap.planning.spec import apply_change, split_change

    values: dict[str, object] = {} if steps is None else {"steps": steps}
    for change in changes or []:
        apply_change(values, *split_change(change))
    request = Request(objective, backbone, data, load_recipe(objective, recipe, values), weights, tap, geometry)
    path, card = adapt_backbone(request, out, device=device)
    if as_json:
        typer.echo(json.dumps(card, indent=1, ensure_ascii=False))
        return
    scores = ", ".join(f"{name} {100 * value:.1f}" for name, value in card["metrics"].items())
    typer.echo(f"{card['val_images']:,} validation images of {card['data']['source']}: {scores}")
    typer.echo(f"weights: {path}")
