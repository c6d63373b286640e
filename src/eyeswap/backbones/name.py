"""Names of backbones: an entry of the catalog, a function in a Python file, or a timm model.

Names are text in study files, on the command line and in records; only `BackboneName.parse` interprets that text.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from eyeswap.errors import SpecError
from eyeswap.files import sha256_of
from eyeswap.own_code import OwnFunction


@dataclass(frozen=True)
class BackboneName:
    """A parsed name; ``str()`` gives it back as text, including the function.

    Attributes:
        kind: ``catalog``, ``own`` (a file of the user's) or ``timm``.
        model: name or alias of the catalog entry, name of the function, or timm's model name.
        file: the Python file of the user's encoder; None otherwise.
    """

    kind: Literal["catalog", "own", "timm"]
    model: str
    file: Path | None = None

    @classmethod
    def parse(cls, text: str, folder: Path = Path()) -> BackboneName:
        """Parse a name; whether the backbone exists is not checked.

        Args:
            text: a catalog name, ``file.py``, ``file.py:function`` or ``timm:<model>``.
            folder: base of a relative file path.

        Raises:
            SpecError: if ``timm:`` is not followed by a model, or the file's colon by a function name.
        """
        if text.startswith("timm:"):
            model = text.removeprefix("timm:")
            if not model:
                raise SpecError("timm: needs a model name, such as timm:vit_small_patch14_dinov2")
            return cls("timm", model)
        own = OwnFunction.parse(text, folder)
        return cls("catalog", text) if own is None else cls("own", own.name, own.file)

    def __str__(self) -> str:
        return {"catalog": self.model, "own": f"{self.file}:{self.model}", "timm": f"timm:{self.model}"}[self.kind]

    @property
    def file_sha256(self) -> str | None:
        """The sha256 (hex) of the user's file; None for other backbones, whose code is part of a package."""
        return None if self.file is None else sha256_of(self.file)
