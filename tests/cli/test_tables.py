"""Tables fit the screen: they leave out what matters least, and cut nothing."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from eyeswap.cli.tables import fitted_table

HEADS = {"arm": 0, "tokens": 0, "params": 1, "FLOPs/run": 2, "digest": 3}
SHORT = [["vit", "196", "19.9M", "13.2E", "71b46462"], ["vmamba", "4,200", "31.3M", "95E", "2b5e4562"]]
LONG = [["vit-adapter-upernet-deit-s-ade20k-512-letterbox-as-published", "1,024", "26.9M", "13.2E", "71b46462"]]


def shown(rows: list[list[str]], width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(fitted_table(HEADS, rows, width))
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("rows", [SHORT, LONG])
@pytest.mark.parametrize("width", [40, 60, 80, 120, 160])
def test_nothing_is_wider_than_the_screen_and_nothing_is_cut(rows: list[list[str]], width: int) -> None:
    lines = shown(rows, width)
    assert max(map(len, lines)) <= width
    assert "…" not in "".join(lines)
    names = "".join(line[: line.rindex("  ")].strip().split("  ")[0] for line in lines[3:] if line.strip())
    assert all(row[0] in names for row in rows)


def test_columns_go_by_their_rank() -> None:
    heads = [shown(SHORT, width)[1].split() for width in (47, 46, 36, 25)]
    assert heads == [
        ["arm", "tokens", "params", "FLOPs/run", "digest"],
        ["arm", "tokens", "params", "FLOPs/run"],
        ["arm", "tokens", "params"],
        ["arm", "tokens"],
    ]


def test_long_names_break_at_hyphens() -> None:
    lines = [line.split()[0] for line in shown(LONG, 60)[3:] if line.strip()]
    assert "".join(lines) == LONG[0][0]
    assert all(line.endswith("-") for line in lines[:-1])
