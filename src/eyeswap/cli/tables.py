"""Tables and labelled fields as the commands print them."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

_GAP = 2  # columns between two cells


def bytes_text(num_bytes: float) -> str:
    """Return a number of bytes with a decimal unit.

    Example:
        >>> bytes_text(72_100_000)
        '72.1 MB'
    """
    for unit in ("B", "KB", "MB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:,.1f} GB"


def print_field(console: Console, label: str, text: str, style: str) -> None:
    """Print a label and its text with a hanging indent; URLs and paths are not broken, so that they can be copied."""
    indent = " " * len(label)
    lines = textwrap.wrap(text, max(40, console.width - len(label)), break_long_words=False, break_on_hyphens=False)
    for number, line in enumerate(lines or [""]):
        console.print(Text.assemble((indent if number else label, style), line), soft_wrap=True)


def fitted_table(heads: Mapping[str, int], rows: Sequence[Sequence[str | Text]], width: int) -> Table:
    """Return a table with as many columns as fit; names that are still too long are wrapped at hyphens.

    Args:
        heads: heading and rank of each column. Columns of the highest rank are dropped first, those of rank 0 never.
            The first column holds names.
        rows: all cells.
        width: width of the terminal in characters.
    """
    names = list(heads)
    widths = [max(len(name), *(len(row[index]) for row in rows)) + _GAP for index, name in enumerate(names)]
    for limit in sorted(set(heads.values()), reverse=True):
        kept = [index for index, rank in enumerate(heads.values()) if rank <= limit]
        if sum(widths[index] for index in kept) + _GAP <= width:
            break
    name_width = max(20, width - sum(widths[index] for index in kept[1:]) - 2 * _GAP)
    columns = [Column(names[index], justify="left" if index == 0 else "right", no_wrap=True) for index in kept]
    table = Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, _GAP - 1, 0, 0))
    for row in rows:
        table.add_row("\n".join(textwrap.wrap(str(row[0]), name_width)), *(row[index] for index in kept[1:]))
    return table
