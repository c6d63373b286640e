"""The console that commands print tables to."""

from __future__ import annotations

from rich.console import Console

WIDTH_OF_FILES = 160


def open_console() -> Console:
    """Return a console as wide as the terminal; a file or pipe has no width, so tables get room there."""
    console = Console()
    return console if console.is_terminal else Console(width=WIDTH_OF_FILES)
