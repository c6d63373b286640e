"""The console for all output, on which text from users and files is displayed but never interpreted.

Names of files and arms, questions and answers may contain rich's markup (``[bold]``), control characters that move the
cursor, or characters that change the direction of writing. None of these has an effect here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.segment import Segment
from rich.text import Text

WIDTH_OF_FILES = 160

_CONTROLS = [*range(0x20), *range(0x7F, 0xA0)]
_DIRECTIONS = [0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)]  # UAX 9
_LINES = [0x2028, 0x2029]  # line and paragraph separators
_VISIBLE = {code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" for code in _CONTROLS + _DIRECTIONS + _LINES}
_VISIBLE |= dict.fromkeys(range(0xD800, 0xE000), "\ufffd")  # lone surrogates, which cannot be encoded
del _VISIBLE[ord("\n")], _VISIBLE[ord("\t")]


def visible(text: str) -> str:
    r"""Return text with control and direction characters escaped, except line feeds and tabs.

    Example:
        >>> visible("red\x1b[2J")
        'red\\x1b[2J'
    """
    return text.translate(_VISIBLE)


class _InertConsole(Console):
    """A console without markup and emoji codes, on which control characters are escaped."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Return text without markup, escaped before its width is measured."""
        return super().render_str(visible(text), **options)

    def render(self, renderable: Any, options: Any = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)


_is_quiet = False


def be_quiet(quiet: bool) -> None:
    """Choose whether progress is shown in this process; results and errors always are."""
    global _is_quiet
    _is_quiet = quiet


def progress_console(stderr: bool = False, quiet: bool = False) -> Console:
    """Return a console for progress, which is silent where the user wants none."""
    return open_console(stderr, quiet or _is_quiet)


def open_console(stderr: bool = False, quiet: bool = False) -> Console:
    """Return a console as wide as the terminal, or wide enough for tables if the output is a file or pipe."""
    console = _InertConsole(stderr=stderr, quiet=quiet, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = WIDTH_OF_FILES
    return console
