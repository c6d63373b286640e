"""`eyeswap train`, `pretrain` and `adapt`: one VLM by a recipe, a miniature model from scratch, a backbone further."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from eyeswap.cli.options import GpuOption, GpusOption, JsonOption, MfuOption, RunsOption, TextOption
from eyeswap.errors import SpecError

EXAMPLE = "Example: eyeswap train recipes/llava-one-stage.yaml --backbone vmamba-small-s2l15 --dry-run"
PRETRAIN_EXAMPLE = "Example: eyeswap pretrain digits-vmamba --out checkpoints"
ADAPT_EXAMPLE = "Example: eyeswap adapt --objective detection --backbone digits-vmamba --data digits"


def train(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A YAML file: the `recipe` section of a study.")],
    backbone: Annotated[
        str, typer.Option("--backbone", metavar="NAME", help="Catalog name, file.py:function, or timm:NAME.")
    ],
    weights: Annotated[
        str, typer.Option("--weights", metavar="FILE", help="Checkpoint of the backbone; by default the published one.")
    ] = "",
    connector: Annotated[
        str, typer.Option("--connector", metavar="NAME", help="Connector to use in place of the recipe's.")
    ] = "",
    geometry: Annotated[
        str, typer.Option("--geometry", metavar="NAME", help="Image geometry, such as letterbox-224.")
    ] = "",
    tap: Annotated[str, typer.Option("--tap", metavar="TAP", help="Where to read the backbone's features.")] = "",
    wiring: Annotated[
        str, typer.Option("--wiring", metavar="NAME", help="controlled or as-published, in place of the recipe's.")
    ] = "",
    seed: Annotated[
        int,
        typer.Option("--seed", min=0, metavar="N", help="Seed of connector weights, batch order and dropout."),
    ] = 7,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the recipe, or execution.KEY; repeatable."),
    ] = None,
    runs: RunsOption = Path("runs"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the cost; load and write nothing.")] = False,
    ranks: Annotated[
        int | None,
        typer.Option(
            "--ranks", min=1, metavar="N", help="With --dry-run: take one step of N processes on tensors without data."
        ),
    ] = None,
    gpu: GpuOption = "h200",
    gpus: GpusOption = 1,
    mfu: MfuOption = 0.4,
    text_tokens: TextOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train one VLM by a recipe, outside of any study.

    The run is written to RUNS/RECIPE/BACKBONE/seed-N. After an interruption the same command resumes it. On several
    GPUs: `torchrun --nproc-per-node 8 -m eyeswap.cli train RECIPE --backbone NAME`. The options from --ranks on only
    affect --dry-run.
    """
    from eyeswap.console import open_console, progress_console
    from eyeswap.study.one_arm import one_arm

    overrides = {"weights": weights, "connector": connector, "geometry": geometry, "tap": tap, "wiring": wiring}
    arm = {"backbone": backbone, **{key: value for key, value in overrides.items() if value}}
    study = one_arm(recipe, arm, seed, changes or [])
    console = open_console()
    if ranks is not None and not dry_run:
        raise SpecError("--ranks: only with --dry-run; a training runs on the processes that torchrun starts")
    if dry_run:
        from eyeswap.cli.plan import show_plan
        from eyeswap.planning.estimate import Assumptions
        from eyeswap.planning.hardware import find_gpu

        if ranks is not None:
            from eyeswap.cli.plan import show_step

            show_step(study, ranks, Assumptions(find_gpu(gpu), ranks, mfu, text_tokens), as_json)
            return
        if not as_json:
            console.print("dry run: no weights or images are loaded, and nothing is written", highlight=False)
        show_plan(study, runs, Assumptions(find_gpu(gpu), gpus, mfu, text_tokens), as_json)
        return
    from eyeswap.study.one_arm import train_one

    folder = train_one(study, recipe, runs, progress_console())
    if os.environ.get("RANK", "0") == "0":  # under torchrun one process is enough
        console.print(f"model: {folder / 'model'}", highlight=False, soft_wrap=True)
        next_step = f"to evaluate it: eyeswap eval {folder} --benchmarks vqav2,refcoco --subset slim"
        console.print(next_step, highlight=False, soft_wrap=True)


def pretrain(
    name: Annotated[str, typer.Argument(metavar="NAME", help="digits-llm, or a backbone such as digits-vmamba.")],
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", file_okay=False, help="Folder for the checkpoint.")
    ] = Path("checkpoints"),
) -> None:
    """Train a miniature backbone or LLM with its recipe; digits-llm-raster-8 and -16 go on from the shipped LLM."""
    from eyeswap.pretraining.pretrain import pretrain as pretrain_miniature

    typer.echo(f"checkpoint: {pretrain_miniature(name, out)}")


def adapt(
    objective: Annotated[
        Literal["detection", "segmentation", "classification"],
        typer.Option("--objective", help="What to train the backbone for."),
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
    """Adapt a backbone to detection or segmentation, or further to classification, with one recipe for all families.

    Backbone and head are trained together; the backbone is saved under its official names and can be an arm of a study.
    An interrupted run resumes with the same command.
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
