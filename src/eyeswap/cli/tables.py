"""Tables and fields as commands print them."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

_GAP = 2  # columns between two cells


def print_field(console: Console, label: str, text: str, style: str) -> None:
    """Print a label and its text, wrapped below itself; addresses and paths are not broken, so they can be copied."""
    indent = " " * len(label)
    lines = textwrap.wrap(text, max(40, console.width - len(label)), break_long_words=False, break_on_hyphens=False)
    for number, line in enumerate(lines or [""]):
        console.print(Text.assemble((indent if number else label, style), line), soft_wrap=True)


def fitted_table(heads: Mapping[str, int], rows: Sequence[Sequence[str | Text]], width: int) -> Table:
    """Return a table with as many columns as fit; names that are still too long are broken at hyphens.

    Args:
        heads: heading of each column and its rank; those of rank 0 always stay. The first is the column of names.
        rows: all cells.
        width: columns of the screen.
    """
    names = list(heads)
    widths = [max(len(name), *(len(row[place]) for row in rows)) + _GAP for place, name in enumerate(names)]
    for limit in sorted(set(heads.values()), reverse=True):
        kept = [place for place, rank in enumerate(heads.values()) if rank <= limit]
        if sum(widths[place] for place in kept) + _GAP <= width:
            break
    room = max(20, width - sum(widths[place] for place in kept[1:]) - 2 * _GAP)
    columns = [Column(names[place], justify="left" if place == 0 else "right", no_wrap=True) for place in kept]
    table = Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, _GAP - 1, 0, 0))
    for row in rows:
        table.add_row("\n".join(textwrap.wrap(str(row[0]), room)), *(row[place] for place in kept[1:]))
    return table
