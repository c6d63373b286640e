"""Text of users is shown on a console and never obeyed."""

from __future__ import annotations

import io

import pytest
from rich.table import Table
from rich.text import Text

from eyeswap.console import open_console, visible

HOSTILE = "a[/b].jpg [bold]x[/bold] :smile: \x1b[2J\u202egnp.exe\u2028 tail"


@pytest.fixture
def printed() -> io.StringIO:
    return io.StringIO()


@pytest.mark.parametrize("way", ["text", "styled text", "cell", "title"])
def test_markup_controls_and_directions_have_no_effect(printed: io.StringIO, way: str):
    console = open_console()
    console.file, console.width = printed, 160
    table = Table("name", title=HOSTILE if way == "title" else "images", title_justify="left")
    table.add_row(HOSTILE if way == "cell" else "x")
    console.print({"text": HOSTILE, "styled text": Text(HOSTILE, "red")}.get(way, table))
    output = "".join(printed.getvalue().split())  # a title is broken into the lines of its table
    assert "a[/b].jpg[bold]x[/bold]:smile:" in output
    assert not {"\x1b", "\u202e", "\u2028"} & set(output)
    assert r"\x1b[2J\u202egnp.exe\u2028tail" in output


def test_styles_still_reach_a_terminal(printed: io.StringIO):
    console = open_console()
    console.file = printed
    console._force_terminal, console._color_system = True, console._detect_color_system()
    console.print(Text("red", "bold"))
    assert "red" in printed.getvalue()


@pytest.mark.parametrize("text", ["plain", "über 30 µm, 漢字, \U0001f441", "two\nlines\tand a tab"])
def test_ordinary_text_is_left_alone(text: str):
    assert visible(text) == text
    assert visible(text + "\ud800") == text + "\ufffd"
