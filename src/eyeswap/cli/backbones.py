"""`eyeswap backbones list|show|check|convert` and `eyeswap check`: the catalog, weights, and encoders of your own."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from eyeswap.backbones.catalog import BackboneEntry
    from eyeswap.backbones.conformance import Finding

app = typer.Typer(no_args_is_help=True, help="Look at the backbones of the catalog, and check their weights.")
WIDE = 136  # columns of a terminal in which these fit too for most families
WIDE_ONLY = ("tap", "geometry", "trained on")

Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="A name of the catalog.")]


@app.command("list", epilog="Example: eyeswap backbones list tiny --family vmamba")
def list_all(
    part: Annotated[str, typer.Argument(metavar="[PART]", help="Only names that contain this.")] = "",
    family: Annotated[str | None, typer.Option("--family", metavar="F", help="Only this family.")] = None,
    objective: Annotated[
        str | None,
        typer.Option("--objective", metavar="O", help="Only classification, detection or segmentation."),
    ] = None,
    as_json: Json = False,
) -> None:
    """List the backbones of the catalog: tokens, size, published accuracy, geometry, licence of the weights."""
    from rich.text import Text

    from eyeswap.console import open_console

    entries = _chosen(part, family, objective)
    if as_json:
        typer.echo(json.dumps([about(entry) for entry in entries], indent=1, ensure_ascii=False))
        return
    console = open_console()
    is_wide = console.width >= WIDE
    for one in dict.fromkeys(entry.family for entry in entries):
        members = [entry for entry in entries if entry.family == one]
        table, licences = _fitted(members, console)
        console.print(Text.assemble("\n", (one, "bold"), f" ({len(members)}){licences}"))
        console.print(table)
    for line in _footnotes(entries, is_wide):
        console.print(line, style="dim", highlight=False)


@app.command(epilog="Example: eyeswap backbones show vmamba-tiny-s1l8")
def show(name: Name, as_json: Json = False) -> None:
    """Print all that the catalog says about one backbone."""
    from eyeswap.backbones import catalog
    from eyeswap.cli.tables import print_field
    from eyeswap.console import open_console

    entry = catalog.entry(name)
    if as_json:
        typer.echo(json.dumps(about(entry), indent=1, ensure_ascii=False))
        return
    console = open_console()
    console.print(entry.name, style="bold", highlight=False)
    for label, text in _facts(entry):
        print_field(console, f"{label:<14}", text, style="dim")


@app.command(
    "check", epilog="Example: eyeswap backbones check vmamba-tiny-s1l8 --weights vssm1_tiny_0230s_ckpt_epoch_264.pth"
)
def check_file(
    name: Name,
    weights: Annotated[
        Path | None,
        typer.Option("--weights", metavar="FILE", help="The official file, or a folder that holds it."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Load the official weights of a backbone strictly and run it once: file, licence, keys, tokens.

    Without --weights the file is downloaded, once. `eyeswap check NAME` looks at the network's conduct instead.
    """
    from eyeswap.backbones.conformance import check_weights

    report_findings(check_weights(name, weights), name, as_json)


@app.command(epilog="Example: eyeswap backbones convert epoch-90.pth mine.safetensors --key model --strip module.")
def convert(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A checkpoint: .pth, .pkl or .safetensors.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The .safetensors file to write.")],
    key: Annotated[
        str, typer.Option("--key", metavar="KEY", help="Where the weights lie, dots between nested dictionaries.")
    ] = "",
    strip: Annotated[
        str, typer.Option("--strip", metavar="PREFIX", help="What their names begin with; others are left out.")
    ] = "",
) -> None:
    """Take the weights of a network out of a training checkpoint, without running any code of it.

    What --weights then reads is a plain safetensors file, a fraction of a checkpoint that holds an optimizer too.
    """
    from eyeswap.backbones.state import repack
    from eyeswap.errors import SpecError
    from eyeswap.files import write_safetensors

    if out.suffix != ".safetensors":
        raise SpecError(f"{out}: name it .safetensors, which is what is written")
    tensors = repack(file, key, strip)
    write_safetensors(out, tensors)
    num_bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    typer.echo(f"{out}: {len(tensors)} tensors, {num_bytes / 2**20:,.1f} MiB")


CHECK_EXAMPLE = "Example: eyeswap check my_encoder.py"


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
    report_findings(check_backbone(network, geometry, device=device), encoder, as_json)


def report_findings(findings: Iterable[Finding], title: str, as_json: bool) -> None:
    """Print findings as they come, or all at once as JSON; exit with 1 if a check failed."""
    import dataclasses

    from eyeswap.console import open_console

    done: list[Finding] = []
    console = open_console()
    if not as_json:
        console.print(title, style="bold", highlight=False)
    for finding in findings:
        done.append(finding)
        if not as_json:
            _print_finding(console, finding)
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


def _print_finding(console: Console, finding: Finding) -> None:
    from eyeswap.cli.tables import print_field

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


def about(entry: BackboneEntry) -> dict[str, Any]:
    """Return what `--json` prints about an entry."""
    from eyeswap.backbones.fetch import address

    size = entry.measured()
    plain = entry.model_dump(mode="json")
    return {
        "name": plain.pop("name"),
        "family": plain.pop("family"),
        "num_tokens": size.tokens[0] * size.tokens[1],
        **plain,
        "size": size.model_dump(mode="json"),
        "weights": {**plain["weights"], "address": address(entry.weights)},
    }


def _chosen(part: str, family: str | None, objective: str | None) -> list[BackboneEntry]:
    """Return the entries asked for.

    Raises:
        SpecError: if there is no such family or objective, or no entry is left.
    """
    from typing import get_args

    from eyeswap.backbones import catalog
    from eyeswap.errors import SpecError, nearest

    objectives = get_args(catalog.Objective)
    for option, value, allowed in (("--family", family, catalog.FAMILIES), ("--objective", objective, objectives)):
        if value is not None and value not in allowed:
            raise SpecError(f"{option} {value}: no such thing. {nearest(value, allowed)}")
    chosen = [
        entry
        for entry in catalog.entries().values()
        if any(part in name for name in (entry.name, *entry.aliases))
        and family in (None, entry.family)
        and objective in (None, entry.objective)
    ]
    if not chosen:
        missing = [f"{name}: {why}" for name, why in catalog.left_out().items() if part and part in name]
        raise SpecError(
            f'no backbone has "{part}" in its name{" with these options" if family or objective else ""}; '
            + (f"left out: {missing[0]}" if missing else "`eyeswap backbones list` shows all, timm:<name> opens others")
        )
    return chosen


def _fitted(entries: list[BackboneEntry], console: Console) -> tuple[Table, str]:
    """Return the fullest table that fits the terminal, and the licences where it has no room for them."""
    endless = console.options.update(max_width=1000)
    for left_out in ((), WIDE_ONLY, (*WIDE_ONLY, "licence")):
        table = _table(entries, left_out)
        if console.measure(table, options=endless).maximum <= console.width:
            break
    licences = ", ".join(sorted({_licence(entry) for entry in entries}))
    return table, f", {licences}" if "licence" in left_out else ""


def _table(entries: list[BackboneEntry], left_out: Sequence[str]) -> Table:
    from rich.table import Table

    columns: dict[str, Callable[[BackboneEntry], str]] = {
        "name": lambda entry: entry.name,
        "tokens": lambda entry: str(math.prod(entry.measured().tokens)),
        "width": lambda entry: str(entry.measured().width),
        "params": lambda entry: f"{entry.measured().parameters / 1e6:.1f}M",
        "quality": _quality,
        "tap": tap,
        "geometry": _geometry,
        "trained on": lambda entry: entry.pretraining,
        "licence": _licence,
    }
    shown = {title: cell for title, cell in columns.items() if title not in left_out}
    table = Table(box=None, padding=(0, 1 if left_out else 2, 0, 0), pad_edge=False)
    for title in shown:
        is_number = title in ("tokens", "width", "params", "quality")
        table.add_column(title, justify="right" if is_number else "left", no_wrap=True)
    for entry in entries:
        table.add_row(*(cell(entry) for cell in shown.values()))
    return table


def _licence(entry: BackboneEntry) -> str:
    return entry.licence if entry.weights.commercial_use else f"{entry.licence}*"


def _footnotes(entries: list[BackboneEntry], is_wide: bool) -> list[str]:
    from eyeswap.backbones import catalog

    lines = ["", "params: of the part that runs, up to the tap. quality: of the whole published network, percent"]
    lines[-1] += " (top-1 on IN1K, box AP on COCO, mIoU on ADE20K)."
    if not all(entry.weights.commercial_use for entry in entries):
        lines.append("* for non-commercial use only.")
    if any(entry.family == "vit-adapter" for entry in entries):
        lines.append(f"Not here, of the published study: {len(catalog.left_out())}; `eyeswap backbones")
        lines[-1] += " show NAME` says why: " + ", ".join(catalog.left_out()) + "."
    if not is_wide:
        lines.append(f"A terminal of {WIDE} columns shows tap, geometry and data too; so do --json and show NAME.")
    return lines


def _facts(entry: BackboneEntry) -> list[tuple[str, str]]:
    from eyeswap.backbones.fetch import local_path

    size, source = entry.measured(), entry.weights
    rows, columns = size.tokens
    path = source.packaged_path() if source.packaged else local_path(source)
    facts = [
        ("family", f"{entry.family}, trained for {entry.objective} on {entry.pretraining}"),
        ("tokens", f"{rows}x{columns} = {rows * columns} visual tokens of width {size.width}"),
        ("parameters", f"{size.parameters:,} up to the tap, which is {tap(entry)}"),
        ("quality", _quality(entry, with_source=True)),
        ("geometry", entry.geometry.describe()),
        ("architecture", _plain(entry.architecture)),
        ("weights", _whereabouts(entry)),
        ("", f"{'at' if path.is_file() else 'not on this machine; would lie at'} {path}"),
        ("sha256", source.sha256 or "not published"),
        ("licence", entry.licence + ("" if source.commercial_use else ": for non-commercial use only")),
        ("as published", _as_published(entry)),
        ("note", entry.notes),
        ("also called", ", ".join(entry.aliases)),
    ]
    return [(label, text) for label, text in facts if text]


def _whereabouts(entry: BackboneEntry) -> str:
    from eyeswap.backbones.fetch import address

    if not entry.weights.packaged:
        return str(address(entry.weights))
    made = entry.weights.packaged_path().is_file()
    return "in this package" if made else f"`eyeswap pretrain {entry.name}` makes them"


def tap(entry: BackboneEntry) -> str:
    """Return an entry's tap as the command line and study files write it."""
    return str(entry.tap) if isinstance(entry.tap, int) else ",".join(map(str, entry.tap))


def _geometry(entry: BackboneEntry) -> str:
    height, width = entry.geometry.canvas
    return f"{entry.geometry.strategy} {height}x{width}"


def _quality(entry: BackboneEntry, *, with_source: bool = False) -> str:
    if entry.quality is not None:
        metric, value, source = entry.quality.metric, entry.quality.value, entry.quality.source
        return f"{value:.1f} {metric} ({source})" if with_source else f"{value:.1f} {metric.split()[-1]}"
    if entry.top1 is None:
        return ""
    return f"{entry.top1} IN1K top-1 ({entry.top1_source})" if with_source else f"{entry.top1:.1f} top-1"


def _as_published(entry: BackboneEntry) -> str:
    """Return what the wiring `as-published` changes, the frozen network's mode included."""
    changed = dict(entry.as_published)
    if "tap" in changed:
        changed["tap"] = tap(entry.wired("as-published"))
    parts = [_plain(value) if isinstance(value, dict) else f"{key} {value}" for key, value in changed.items()]
    return "; ".join([*parts, "the frozen network follows train()"])


def _plain(values: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items())
