"""Functions in Python files of the user's: imported as a script would be, called with a fixed seed.

Such a file is run as code; whoever names it trusts it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from eyeswap.errors import EyeswapError, SpecError
from eyeswap.files import sha256_of

DEFAULT_FUNCTION = "build"


@dataclass(frozen=True)
class OwnFunction:
    """A function in a file of the user's; ``str()`` gives ``file.py:function``.

    Attributes:
        file: the file.
        name: of the function.
    """

    file: Path
    name: str = DEFAULT_FUNCTION

    @classmethod
    def parse(cls, text: str, folder: Path = Path()) -> OwnFunction | None:
        """Read ``file.py`` or ``file.py:function``; None for any other text. ``folder`` is what paths are relative to.

        Raises:
            SpecError: if no function's name stands behind the colon.
        """
        if text.endswith(".py"):
            return cls(folder / text)
        if ".py:" not in text:
            return None
        file, _, function = text.rpartition(":")
        if not function.isidentifier():
            raise SpecError(f'"{function}" is not a function name; write {file}:{DEFAULT_FUNCTION}')
        return cls(folder / file, function)

    def __str__(self) -> str:
        return f"{self.file}:{self.name}"

    @property
    def identity(self) -> str:
        """The name without the folder of the file."""
        return f"{self.file.name}:{self.name}"

    @property
    def sha256(self) -> str:
        """The sha256 (hex) of the file."""
        return sha256_of(self.file)


def call(path: Path, function: str, *arguments: Any, seed: int = 0) -> Any:
    """Call a function of a file; random numbers that it draws from torch follow the seed alone.

    Raises:
        SpecError: if file or function does not exist, or fails.
    """
    import torch

    if not path.is_file():
        raise SpecError(f"{path}: no such file")
    with _folder_on_path(path):
        wanted = getattr(_import(path), function, None)
        if not callable(wanted):
            raise SpecError(f"{path}: has no function {function}")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            try:
                return wanted(*arguments)
            except EyeswapError:
                raise
            except (Exception, SystemExit) as error:  # whatever the user's code raises
                raise SpecError(f"{path}: {function}() failed: {one_line(error)}") from error


@contextlib.contextmanager
def _folder_on_path(path: Path) -> Iterator[None]:
    """Let a file import what lies beside it, as a script can."""
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def _import(path: Path) -> ModuleType:
    """Import a file anew, under a name that no installed module has; its dataclasses look themselves up by it."""
    spec = importlib.util.spec_from_file_location(f"eyeswap_own_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise SpecError(f"{path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # whatever the user's file raises
        raise SpecError(f"{path}: import failed: {one_line(error)}") from error
    return module


def one_line(error: BaseException) -> str:
    """Return an exception for a message: its type and what it says, in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(": ")
