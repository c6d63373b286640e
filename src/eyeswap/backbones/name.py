"""What a backbone is called: an entry of the catalog, a function in a Python file, or a timm model.

Names are text in study files, on the command line and in records; `BackboneName.parse` is the only reader of that text.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from eyeswap.errors import SpecError
from eyeswap.files import sha256_of

DEFAULT_FUNCTION = "build"


@dataclass(frozen=True)
class BackboneName:
    """A parsed name; ``str()`` gives its text, the function included.

    Attributes:
        kind: ``catalog``, ``own`` (a file of the user's) or ``timm``.
        model: name or alias of the catalog entry, name of the function, or timm's name of the model.
        file: the file of an own encoder; None otherwise.
    """

    kind: Literal["catalog", "own", "timm"]
    model: str
    file: Path | None = None

    @classmethod
    def parse(cls, text: str, folder: Path = Path()) -> BackboneName:
        """Read a name.

        Args:
            text: a catalog name, ``file.py``, ``file.py:function`` or ``timm:<model>``.
            folder: what the path of a file is relative to.

        Raises:
            SpecError: if there is no model behind ``timm:``, or no function name behind the file. Whether the backbone
                exists is not looked at.
        """
        if text.startswith("timm:"):
            model = text.removeprefix("timm:")
            if not model:
                raise SpecError("timm: needs a model name, such as timm:vit_small_patch14_dinov2")
            return cls("timm", model)
        if text.endswith(".py"):
            return cls("own", DEFAULT_FUNCTION, folder / text)
        if ".py:" in text:
            file, _, function = text.rpartition(":")
            if not function.isidentifier():
                raise SpecError(f'"{function}" is not a function name; write {file}:{DEFAULT_FUNCTION}')
            return cls("own", function, folder / file)
        return cls("catalog", text)

    def __str__(self) -> str:
        return {"catalog": self.model, "own": f"{self.file}:{self.model}", "timm": f"timm:{self.model}"}[self.kind]

    @property
    def file_sha256(self) -> str | None:
        """The sha256 (hex) of an own encoder's file; None for other backbones, whose code the package holds."""
        return None if self.file is None else sha256_of(self.file)
