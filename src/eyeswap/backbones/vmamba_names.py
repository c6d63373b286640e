"""The names under which VMamba checkpoints were published over time, brought to one spelling.

The spelling of `VMamba` is that of the ImageNet files of the ``v2`` releases. Others: the ``v0`` files have
older module names; the newer single-file code stores the projections of the scan as two-dimensional
``.weight``s; some files keep the shape of 1x1 convolutions for linear layers; detectors and segmentors put
the network below ``backbone.`` of a ``state_dict``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

RENAMES = (
    (r"\.ln_1\.", ".norm."),
    (r"\.self_attention\.", ".op."),
    (r"^patch_embed\.proj\.", "patch_embed.0."),
    (r"^patch_embed\.norm\.", "patch_embed.2."),
    (r"^norm\.", "classifier.norm."),
    (r"^head\.", "classifier.head."),
    (r"\.(x_proj|dt_projs)\.weight$", r".\1_weight"),
)
LINEAR = re.compile(r"\.(in_proj|out_proj|fc1|fc2)\.weight$")
DIRECTIONS = 4


def official_state_dict(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return a checkpoint's tensors under the names and in the shapes of `VMamba`.

    Accepts the content of a file (tensors below ``model`` or ``state_dict``, the network possibly below
    ``backbone.``) or the tensors themselves; applying it twice changes nothing. Where a file has no norm for the
    output of stage 4, the classifier's norm takes its place, as in the official loader.

    Args:
        content: what the file holds.

    Returns:
        All tensors of the network, heads included; those of necks and heads of detectors are left out.
    """
    for container in ("model", "state_dict"):
        content = content.get(container, content)
    if any(key.startswith("backbone.") for key in content):
        content = {
            key.removeprefix("backbone."): value for key, value in content.items() if key.startswith("backbone.")
        }
    state = {}
    for key, value in content.items():
        for pattern, name in RENAMES:
            key = re.sub(pattern, name, key)
        state[key] = _official_shape(key, value)
    for leaf in ("weight", "bias"):
        if f"classifier.norm.{leaf}" in state:
            state.setdefault(f"outnorm3.{leaf}", state[f"classifier.norm.{leaf}"])
    return state


def _official_shape(key: str, value: Tensor) -> Tensor:
    if key.endswith(("x_proj_weight", "dt_projs_weight")) and value.ndim == 2:
        return value.reshape(DIRECTIONS, -1, value.shape[1])
    if LINEAR.search(key) and value.ndim == 4:
        return value.flatten(1)
    return value
