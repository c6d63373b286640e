"""The errors that eyeswap raises on purpose.

    EyeswapError
    ├── SpecError           a study, recipe or option asks for something that does not exist
    ├── DataError           a data file is missing, corrupt or not in its documented format
    │   └── MissingFileError    it is missing
    ├── CheckpointError     a weights file is missing, untrusted or does not fit the network
    ├── ShapeError          a tensor or image has an impossible shape for the operation
    ├── EnvironmentProblem  this machine lacks something (an optional package, memory, disk space)
    └── RunError            a run started and could not finish

Every message is one line: what is wrong, where (file, field, row), and what to do. The library raises errors; only the
command line turns them into a line and an exit code.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class EyeswapError(Exception):
    """Base class of all errors raised on purpose.

    Args:
        message: the message; line breaks, which quoted errors of libraries may contain, are removed.
    """

    exit_code = 2

    def __init__(self, message: object) -> None:
        super().__init__(" ".join(str(message).split()))


class SpecError(EyeswapError):
    """A study, recipe or option asks for something that does not exist."""


class DataError(EyeswapError):
    """A data file is missing, corrupt or not in its documented format."""


class MissingFileError(DataError):
    """A data file, or the requested split in it, is missing."""


class CheckpointError(EyeswapError):
    """A weights file is missing, untrusted or does not fit the network."""


class ShapeError(EyeswapError):
    """A tensor or image has an impossible shape for the operation."""


class EnvironmentProblem(EyeswapError):  # noqa: N818 - a name that reads well
    """This machine lacks something: an optional package, memory, disk space."""


class RunError(EyeswapError):
    """A run started and could not finish."""

    exit_code = 1


def nearest(word: str, allowed: Iterable[str]) -> str:
    """Return the end of an error message: the nearest allowed word, if any, and all allowed words.

    Example:
        >>> nearest("vmanba", ["vit", "vmamba"])
        'Did you mean vmamba? Allowed: vit, vmamba.'
    """
    choices = list(allowed)
    close = difflib.get_close_matches(word, choices, n=1, cutoff=0.5)
    hint = f"Did you mean {close[0]}? " if close else ""
    return f"{hint}Allowed: {', '.join(choices)}."
