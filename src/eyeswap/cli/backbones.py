"""`eyeswap backbones list|show|check|convert` and `eyeswap check`: the catalog, its weights, and your own encoders."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from eyeswap.cli.options import JsonOption

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from eyeswap.backbones.catalog import BackboneEntry
    from eyeswap.backbones.conformance import Finding

app = typer.Typer(no_args_is_help=True, help="List the backbones of the catalog, and check or convert their weights.")
WIDE = 136  # terminal width from which WIDE_ONLY fits too, for most families
WIDE_ONLY = ("tap", "geometry", "trained on")

Name = Annotated[str, typer.Argument(metavar="NAME", help="A name from the catalog.")]


@app.command("list", epilog="Example: eyeswap backbones list tiny --family vmamba")
def list_all(
    part: Annotated[str, typer.Argument(metavar="PART", help="Only names that contain this text.")] = "",
    family: Annotated[
        str | None, typer.Option("--family", metavar="NAME", help="Only this family, such as vmamba.")
    ] = None,
    objective: Annotated[
        Literal["classification", "detection", "segmentation"] | None,
        typer.Option("--objective", help="Only backbones pretrained for this task."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the backbones of the catalog: tokens, size, published accuracy, geometry and licence."""
    from rich.text import Text

    from eyeswap.console import open_console

    entries = _chosen(part, family, objective)
    if as_json:
        typer.echo(json.dumps([about(entry) for entry in entries], indent=1, ensure_ascii=False))
        return
    console = open_console()
    is_wide = console.width >= WIDE
    for name in dict.fromkeys(entry.family for entry in entries):
        members = [entry for entry in entries if entry.family == name]
        table, licences = _fitted(members, console)
        console.print(Text.assemble("\n", (name, "bold"), f" ({len(members)}){licences}"))
        console.print(table)
    for line in _footnotes(entries, is_wide):
        console.print(line, style="dim", highlight=False)


@app.command(epilog="Example: eyeswap backbones show vmamba-tiny-s1l8")
def show(name: Name, as_json: JsonOption = False) -> None:
    """Print everything the catalog has about one backbone."""
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
        typer.Option("--weights", metavar="FILE", help="The official file, or a folder that contains it."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check the official weights file of a backbone: digest, licence, keys, and one forward pass.

    The file is loaded strictly. Without --weights it is downloaded, once. To check how a network behaves as an encoder
    instead, use `eyeswap check NAME`.
    """
    from eyeswap.backbones.conformance import check_weights

    report_findings(check_weights(name, weights), name, as_json)


@app.command(epilog="Example: eyeswap backbones convert epoch-90.pth mine.safetensors --key model --strip module.")
def convert(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A checkpoint: .pth, .pkl or .safetensors.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The .safetensors file to write.")],
    key: Annotated[
        str, typer.Option("--key", metavar="KEY", help="Key of the weights; dots separate nested dictionaries.")
    ] = "",
    strip: Annotated[
        str, typer.Option("--strip", metavar="PREFIX", help="Remove this prefix; drop weights that do not have it.")
    ] = "",
) -> None:
    """Extract the weights of a network from a training checkpoint, without executing any code in it.

    The result is a plain safetensors file for --weights, much smaller than a checkpoint with optimizer state.
    """
    from eyeswap.backbones.state import repack
    from eyeswap.errors import SpecError
    from eyeswap.files import write_safetensors

    if out.suffix != ".safetensors":
        raise SpecError(f"{out}: the output is a safetensors file; give it the suffix .safetensors")
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
            help="Your own encoder (my_encoder.py or my_encoder.py:function), timm:NAME, or a name from the catalog.",
        ),
    ],
    weights: Annotated[
        Path | None, typer.Option("--weights", metavar="FILE", help="Weights file; by default the encoder's own.")
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Use randomly initialized weights; nothing is downloaded.")
    ] = False,
    connector: Annotated[
        bool, typer.Option("--connector", help="Check a connector instead: my_connector.py:build, or a name.")
    ] = False,
    behind: Annotated[
        str, typer.Option("--behind", metavar="NAME", help="With --connector: the backbone before it.")
    ] = "digits-vit",
    llm_width: Annotated[
        int, typer.Option("--llm-width", min=1, help="With --connector: width of the LLM, 4096 for Vicuna-7B.")
    ] = 128,
    device: Annotated[str, typer.Option("--device", metavar="DEVICE", help="cpu, cuda or cuda:N.")] = "cpu",
    as_json: JsonOption = False,
) -> None:
    """Check that an encoder can be an arm of a study.

    Checks tokens, grid, determinism, frozen weights, pixels and speed. Prints one line per check, with a remedy for
    each failure; exits with 1 if any check fails. With --connector it checks a connector: tokens, gradients, seeds, and
    whether it can be saved with its code.
    """
    if connector:
        _check_connector(encoder, behind, llm_width, as_json)
        return
    from eyeswap.backbones.conformance import check_backbone
    from eyeswap.backbones.weights import build_backbone, load_backbone

    _check_device(device)
    if fresh:
        network, geometry = build_backbone(encoder)
    else:
        loaded = load_backbone(encoder, weights)
        network, geometry = loaded.network, loaded.geometry
    report_findings(check_backbone(network, geometry, device=device), encoder, as_json)


def _check_connector(name: str, behind: str, llm_width: int, as_json: bool) -> None:
    from eyeswap.backbones.weights import build_backbone
    from eyeswap.vlm.connector_check import check_connector

    network, geometry = build_backbone(behind)
    grid = network.token_grid(*geometry.canvas)
    report_findings(check_connector(name, network.embed_dim, llm_width, grid), name, as_json)


def report_findings(findings: Iterable[Finding], title: str, as_json: bool) -> None:
    """Print findings as they come, or all at once as JSON; exit with 1 if a check failed."""
    import dataclasses

    from eyeswap.console import open_console

    seen: list[Finding] = []
    console = open_console()
    if not as_json:
        console.print(title, style="bold", highlight=False)
    for finding in findings:
        seen.append(finding)
        if not as_json:
            _print_finding(console, finding)
    failed = [finding.check for finding in seen if finding.status == "failed"]
    if as_json:
        plain = [dataclasses.asdict(finding) for finding in seen]
        typer.echo(json.dumps({"encoder": title, "ok": not failed, "findings": plain}, indent=1))
    else:
        verdict = f"failed: {', '.join(failed)}" if failed else "all checks passed"
        verdict += " (the other checks need it first)" if failed == ["tokens"] and len(seen) == 1 else ""
        console.print(verdict, style="bold red" if failed else "bold green", highlight=False)
    if failed:
        raise typer.Exit(1)


def _print_finding(console: Console, finding: Finding) -> None:
    from eyeswap.cli.tables import print_field

    colour = {"ok": "green", "note": "yellow", "failed": "bold red"}[finding.status]
    text = f"{finding.found}; {finding.remedy}" if finding.remedy else finding.found
    print_field(console, f"{finding.status:<8}{finding.check:<9}", text, style=colour)


def _check_device(device: str) -> None:
    """Check that torch can use a device.

    Raises:
        EnvironmentProblem: if it cannot.
    """
    import torch

    from eyeswap.errors import EnvironmentProblem

    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = " ".join(str(error).split())[:150]
        raise EnvironmentProblem(f"--device {device}: torch cannot use this device: {reason}") from None


def about(entry: BackboneEntry) -> dict[str, Any]:
    """Return a catalog entry as `--json` prints it."""
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
    """Return the entries that match all options.

    Raises:
        SpecError: if there is no such family, or no entry matches.
    """
    from eyeswap.backbones import catalog
    from eyeswap.errors import SpecError, nearest

    if family is not None and family not in catalog.FAMILIES:
        raise SpecError(f"--family {family}: no such family. {nearest(family, catalog.FAMILIES)}")
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
            f'no backbone{" that matches these options" if family or objective else ""} has "{part}" in its name; '
            + (f"left out: {missing[0]}" if missing else "`eyeswap backbones list` lists all; timm:NAME loads others")
        )
    return chosen


def _fitted(entries: list[BackboneEntry], console: Console) -> tuple[Table, str]:
    """Return the fullest table that fits the terminal, and the licences if there is no room for them in the table."""
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

    lines = ["", "params: of the part that runs, up to the tap. quality: of the complete published network, percent"]
    lines[-1] += " (top-1 on IN1K, box AP on COCO, mIoU on ADE20K)."
    if not all(entry.weights.commercial_use for entry in entries):
        lines.append("* for non-commercial use only.")
    if any(entry.family == "vit-adapter" for entry in entries):
        lines.append(f"{len(catalog.left_out())} backbones of the published study are not in the catalog; `eyeswap")
        lines[-1] += " backbones show NAME` says why: " + ", ".join(catalog.left_out()) + "."
    if not is_wide:
        lines.append(f"A terminal of {WIDE} columns also shows tap, geometry and data; so do --json and show NAME.")
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
        ("", f"{'at' if path.is_file() else 'not on this machine; would be stored at'} {path}"),
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
    is_packaged = entry.weights.packaged_path().is_file()
    return "in this package" if is_packaged else f"made by `eyeswap pretrain {entry.name}`"


def tap(entry: BackboneEntry) -> str:
    """Return an entry's tap in the notation of study files and the command line."""
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
    """Return what the wiring `as-published` changes, including the mode of the frozen network."""
    changed = dict(entry.as_published)
    if "tap" in changed:
        changed["tap"] = tap(entry.wired("as-published"))
    parts = [_plain(value) if isinstance(value, dict) else f"{key} {value}" for key, value in changed.items()]
    return "; ".join([*parts, "the frozen network follows train()"])


def _plain(values: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items())
