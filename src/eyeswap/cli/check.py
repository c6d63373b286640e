"""`eyeswap check ENCODER`: does an encoder keep the contract of a backbone?"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from eyeswap.backbones.conformance import Finding

EXAMPLE = "Example: eyeswap check my_encoder.py"


def check(
    encoder: Annotated[
        str,
        typer.Argument(
            metavar="ENCODER",
            help="A file with an encoder of your own (my_encoder.py or my_encoder.py:function), timm:NAME, or a name "
            "of the catalog.",
        ),
    ],
    weights: Annotated[
        Path | None, typer.Option("--weights", metavar="FILE", help="Weights to load, by default the encoder's own.")
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Check the network with fresh weights: nothing is downloaded.")
    ] = False,
    device: Annotated[str, typer.Option("--device", metavar="DEVICE", help="cpu, cuda or cuda:1.")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Check that an encoder can be an arm of a study: its tokens, grid, determinism, frozenness, pixels and speed.

    One line a check, with what to do where one fails; exit code 1 if any does.
    """
    from eyeswap.backbones.conformance import check_backbone
    from eyeswap.backbones.weights import build_backbone, load_backbone

    _check_device(device)
    if fresh:
        network, geometry = build_backbone(encoder)
    else:
        loaded = load_backbone(encoder, weights)
        network, geometry = loaded.network, loaded.geometry
    report(check_backbone(network, geometry, device=device), encoder, as_json)


def report(findings: Iterable[Finding], title: str, as_json: bool) -> None:
    """Print findings as they come, or all at once as JSON; exit with 1 if a check failed."""
    import dataclasses

    from eyeswap.cli.console import open_console

    done: list[Finding] = []
    console = open_console()
    if not as_json:
        console.print(title, style="bold", highlight=False)
    for finding in findings:
        done.append(finding)
        if not as_json:
            _print(console, finding)
    failed = [finding.check for finding in done if finding.status == "failed"]
    if as_json:
        plain = [dataclasses.asdict(finding) for finding in done]
        typer.echo(json.dumps({"encoder": title, "ok": not failed, "findings": plain}, indent=1))
    else:
        verdict = f"failed: {', '.join(failed)}" if failed else "all checks passed"
        verdict += " (the other checks need it first)" if failed == ["tokens"] == [one.check for one in done] else ""
        console.print(verdict, style="bold red" if failed else "bold green", highlight=False)
    if failed:
        raise typer.Exit(1)


def _print(console: Console, finding: Finding) -> None:
    from eyeswap.cli.console import print_field

    colour = {"ok": "green", "note": "yellow", "failed": "bold red"}[finding.status]
    text = f"{finding.found}; {finding.remedy}" if finding.remedy else finding.found
    print_field(console, f"{finding.status:<8}{finding.check:<9}", text, style=colour)


def _check_device(device: str) -> None:
    """Raise EnvironmentProblem where torch has no such device."""
    import torch

    from eyeswap.errors import EnvironmentProblem

    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = " ".join(str(error).split())[:150]
        raise EnvironmentProblem(f"--device {device}: torch cannot use it here: {reason}") from None
