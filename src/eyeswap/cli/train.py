"""`eyeswap train` and `eyeswap pretrain`: train one VLM by a recipe, or make a shipped miniature again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from eyeswap.cli.plan import GpuOption, GpusOption, JsonOption, MfuOption, TextOption

EXAMPLE = "Example: eyeswap train recipes/llava-one-stage.yaml --backbone vmamba-small-s2l15 --dry-run"


def train(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="What stands under `recipe` in a study, by itself.")],
    backbone: Annotated[
        str, typer.Option("--backbone", metavar="NAME", help="Catalog name, file.py:function, or timm:name.")
    ],
    connector: Annotated[str, typer.Option("--connector", help="Another connector than the recipe's.")] = "",
    geometry: Annotated[str, typer.Option("--geometry", help="Another geometry, such as letterbox-224.")] = "",
    tap: Annotated[str, typer.Option("--tap", help="Another tap than the backbone's own.")] = "",
    wiring: Annotated[str, typer.Option("--wiring", help="controlled or as-published, if not the recipe's.")] = "",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of connector, batch order and dropout.")] = 7,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change the recipe, or execution.KEY; repeat it."),
    ] = None,
    runs: Annotated[Path, typer.Option("--runs", help="Folder of all runs: RUNS/RECIPE/BACKBONE/seed-N.")] = Path(
        "runs"
    ),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it takes; load and write nothing.")] = False,
    gpu: GpuOption = "h200",
    gpus: GpusOption = 1,
    mfu: MfuOption = 0.4,
    text_tokens: TextOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train one VLM by a recipe. Start the same command again after an interruption: it goes on where it was.

    Several processes: torchrun --nproc-per-node 8 -m eyeswap.cli train RECIPE --backbone NAME. The options from --gpu
    on are for --dry-run.
    """
    from eyeswap.console import open_console
    from eyeswap.study.one_arm import one_arm

    given = {"connector": connector, "geometry": geometry, "tap": tap, "wiring": wiring}
    arm = {"backbone": backbone, **{key: value for key, value in given.items() if value}}
    study = one_arm(recipe, arm, seed, changes or [])
    console = open_console()
    if dry_run:
        from eyeswap.cli.plan import show_plan
        from eyeswap.planning.estimate import Assumptions
        from eyeswap.planning.hardware import find_gpu

        if not as_json:
            console.print("dry run: no weights and no images are loaded, nothing is written", highlight=False)
        show_plan(study, runs, Assumptions(find_gpu(gpu), gpus, mfu, text_tokens), as_json)
        return
    from eyeswap.study.one_arm import train_one

    folder = train_one(study, recipe, runs, console)
    if os.environ.get("RANK", "0") == "0":  # under torchrun one process is enough
        console.print(f"model: {folder / 'model'}", highlight=False, soft_wrap=True)
        told = f"ask it benchmarks: eyeswap eval {folder} --benchmarks vqav2,refcoco --subset slim"
        console.print(told, highlight=False, soft_wrap=True)


def pretrain(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A miniature: digits-llm or a digits-* backbone.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the checkpoint.")] = Path("checkpoints"),
) -> None:
    """Train a miniature backbone or LLM from scratch, with the recipe that made the shipped one."""
    from eyeswap.pretraining import pretrain as pretrain_miniature

    typer.echo(f"checkpoint: {pretrain_miniature(name, out)}")
