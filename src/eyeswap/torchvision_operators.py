"""Let a torchvision whose compiled library does not load be imported all the same, as transformers and timm do.

pip brings torchvision along with timm, on a machine without a GPU often a build for CUDA. Its Python part, which is all
that transformers and timm use, then cannot be imported, because it describes two operators of the missing library. They
are declared here first, without a kernel. Nothing calls them; whoever does is told by torchvision what is wrong.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from types import ModuleType
from typing import Any

declared: list[Any] = []  # libraries of operators, which last as long as these objects; empty if none was missing


def install() -> None:
    """Declare the operators in time, whoever imports torchvision first; until then nothing is imported."""
    if not any(isinstance(finder, _OperatorsFirst) for finder in sys.meta_path):
        sys.meta_path.insert(0, _OperatorsFirst())


class _OperatorsFirst(MetaPathFinder):
    """Finds no module, but notices when torchvision has tried to load its library and is about to need it."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        """Declare missing operators before the module that describes them."""
        if fullname == "torchvision._meta_registrations":
            _declare_missing()


def _declare_missing() -> None:
    import torch

    missing = [name for name in ("nms", "qnms") if not hasattr(torch.ops.torchvision, name)]
    if missing:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in missing:
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        declared.append(library)
