"""What `eyeswap data check` prints about files, and about instruction data."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from eyeswap.data.catalogue import FoundFile
    from eyeswap.data.instruction_check import InstructionCheck

_MOST_FOLDERS = 20


def file_line(file: FoundFile) -> str:
    """Return what is known of a source: whether it is there and in which version, or where and how to get it."""
    source = file.source
    if file.exists:
        return f"found{f', {file.version}' if file.version else ''}".ljust(8) + f" {file.path}"
    size = f", {source.size}" if source.size else ""
    by_hand = f"; {source.manual}" if source.manual else ""
    return f"missing  {file.path}  <- {source.url}{size}{by_hand}"


def print_check(found: InstructionCheck, console: Console) -> None:
    """Print what was found of an instruction file: its files, records, folders of images, what is wrong, what to do."""
    lines = [f"[bold]{found.path}[/bold]"]
    if found.data_set is not None:
        lines = [f"[bold]{found.data_set.title}[/bold] ({found.data_set.name}): {found.data_set.about}"]
        lines.append(f"  licence: {found.data_set.licence}")
    lines += [f"  {file_line(file)}" for file in found.files]
    if found.preflight is not None:
        preflight = found.preflight
        shown = preflight.num_records - preflight.num_text_only
        lines.append(
            f"  {preflight.num_records:,} records ({shown:,} with an image, {preflight.num_text_only:,} text only), "
            f"{preflight.num_turns:,} turns"
        )
        worst_first = sorted(preflight.sources, key=lambda source: -len(source.missing) - len(source.undecodable))
        for source in worst_first[:_MOST_FOLDERS]:
            bad = f", {len(source.missing):,} missing" if source.missing else ""
            bad += f", {len(source.undecodable):,} undecodable" if source.undecodable else ""
            lines.append(f"  {source.folder}: {source.num_records:,} records, {source.num_images:,} images{bad}")
        if len(worst_first) > _MOST_FOLDERS:
            lines.append(f"  and {len(worst_first) - _MOST_FOLDERS:,} more folders; --json lists them all")
    lines += [f"  [red]![/red] {line}" for line in found.complaints]
    if found.remedy:
        lines.append(f"  {found.remedy}")
    if not found.complaints:
        looked = found.preflight is not None and found.preflight.decoded
        lines.append(f"  [green]complete[/green]{'' if looked else '; --check-images also decodes every image'}")
    console.print("\n".join(lines), highlight=False, soft_wrap=True)
    console.print()
