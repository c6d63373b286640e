"""The console that commands print tables to."""

from __future__ import annotations

import textwrap

from rich.console import Console
from rich.text import Text

WIDTH_OF_FILES = 160


def open_console() -> Console:
    """Return a console as wide as the terminal; a file or pipe has no width, so tables get room there."""
    console = Console()
    return console if console.is_terminal else Console(width=WIDTH_OF_FILES)


def print_field(console: Console, label: str, text: str, style: str) -> None:
    """Print a label and its text, wrapped below itself; addresses and paths are not broken, so they can be copied."""
    indent = " " * len(label)
    lines = textwrap.wrap(text, max(40, console.width - len(label)), break_long_words=False, break_on_hyphens=False)
    for number, line in enumerate(lines or [""]):
        console.print(Text.assemble((indent if number else label, style), line), soft_wrap=True)
