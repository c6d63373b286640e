"""From a checkpoint file into a network, strictly.

Official files lie in a handful of layouts. Every key that a file lacks or has too many is either declared by the
network (parts beyond the tap, heads, optional layer scales) or an error that names it.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eyeswap.backbones.base import VisionBackbone
from eyeswap.errors import CheckpointError
from eyeswap.files import read_safetensors, read_safetensors_shapes, read_torch_weights
from eyeswap.pickles import read_array_pickle


@dataclass(frozen=True)
class Layout:
    """How a network's tensors lie in a checkpoint file.

    Attributes:
        containers: keys of which the first present holds the tensors; none if they lie at the top.
        prefix: what marks the backbone's keys; keys without it belong to necks and heads and are left out.
        strip: prefixes that may or may not be there and are taken off.
    """

    containers: tuple[str, ...] = ()
    prefix: str = ""
    strip: tuple[str, ...] = ()


LAYOUTS = {
    "plain": Layout(),
    "model": Layout(("model",)),  # VMamba, classification
    "backbone": Layout(("state_dict",), "backbone."),  # mmdetection and mmsegmentation
    "detectron2": Layout(("model",), "backbone.net."),  # ViTDet
    "mambavision": Layout(("state_dict", "model"), strip=("module.", "encoder.")),
}


@dataclass(frozen=True)
class KeyReport:
    """What became of the tensors when a network was filled.

    Attributes:
        found: number of the backbone's tensors in the file, parts beyond the tap included.
        used: number of them that filled the network.
        default: keys that the file lacks and that keep their starting value, as the network allows.
    """

    found: int
    used: int
    default: tuple[str, ...]


def read_weights(path: Path, layout: Layout, *, shapes_only: bool = False) -> dict[str, Tensor]:
    """Read a checkpoint file; a ``.safetensors`` file holds the tensors at the top, whatever the layout.

    Args:
        path: the file.
        layout: how tensors lie in it.
        shapes_only: leave the numbers on disk, where the file's format can: tensors are for their shapes alone.

    Raises:
        CheckpointError: if it is missing, untrusted or laid out otherwise.
    """
    if path.suffix == ".safetensors":
        return read_safetensors_shapes(path) if shapes_only else read_safetensors(path)
    if path.suffix == ".pkl":
        content = read_array_pickle(path)
    else:
        content = read_torch_weights(path, mmap=shapes_only and zipfile.is_zipfile(path))
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, expected a dictionary of tensors")
    return unpack(content, layout, str(path))


def unpack(content: Mapping[str, Any], layout: Layout, source: str) -> dict[str, Tensor]:
    """Take a backbone's tensors out of the content of a checkpoint file.

    Raises:
        CheckpointError: if the file is not laid out like this.
    """
    if layout.containers:
        container = next((key for key in layout.containers if isinstance(content.get(key), Mapping)), None)
        if container is None:
            wanted, there = " or ".join(layout.containers), ", ".join(map(str, list(content)[:5]))
            raise CheckpointError(f"{source}: no tensors under {wanted} at the top; it has {there or 'nothing'}")
        content = content[container]
    state = {}
    for key, value in content.items():
        if not str(key).startswith(layout.prefix):
            continue
        if not isinstance(value, Tensor) and not (isinstance(value, np.ndarray) and value.dtype.kind in "biufc"):
            raise CheckpointError(f"{source}: {key} is a {type(value).__name__}, expected a tensor of numbers")
        name = str(key).removeprefix(layout.prefix)
        for prefix in layout.strip:
            name = name.removeprefix(prefix)
        state[name] = torch.as_tensor(value)
    if not state:
        raise CheckpointError(f"{source}: no key starts with {layout.prefix!r}")
    return state


def load_state(network: VisionBackbone, state: Mapping[str, Tensor], source: str) -> KeyReport:
    """Fill a network with tensors, strictly.

    Args:
        network: the network to fill.
        state: tensors under official names; shapes may differ by a reshape of the same numbers.
        source: file or name for the error message.

    Raises:
        CheckpointError: naming the first key that is missing, unexpected, of another shape, or not finite.
    """
    fitted, absent = fit_state(network, state, source)
    for key, value in fitted.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise CheckpointError(f"{source}: {key} has numbers that are not finite")
    network.load_state_dict(fitted)
    return KeyReport(found=len(state), used=len(fitted) - len(absent), default=tuple(absent))


def fit_state(network: VisionBackbone, state: Mapping[str, Tensor], source: str) -> tuple[dict[str, Tensor], list[str]]:
    """Hold tensors against a network by their names and shapes; neither's numbers are looked at.

    What may be too much or lacking, the network declares itself: ``beyond_tap`` and ``may_lack``.

    Args:
        network: the network to fill, which may lie on the meta device.
        state: tensors under official names; shapes may differ by a reshape of the same numbers.
        source: file or name for the error message.

    Returns:
        The network's state with these tensors, in the network's shapes, and the keys that keep their starting value.

    Raises:
        CheckpointError: naming the first key that is missing, unexpected, or of another shape.
    """
    expected = network.state_dict()
    beyond, may_lack = network.beyond_tap, (*network.may_lack, ".num_batches_tracked")
    absent = [key for key in expected if key not in state]
    missing = [key for key in absent if not key.endswith(may_lack)]
    unneeded = [key for key in state if key not in expected and not key.startswith(beyond)]
    unexpected = [key for key in unneeded if not key.endswith(network.recomputed)]
    for kind, keys in (("missing", missing), ("unexpected", unexpected)):
        if keys:
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            raise CheckpointError(f"{source}: {kind} key {keys[0]}{more}; is this the right file for this entry?")
    fitted = {}
    for key, own in expected.items():
        value = state.get(key, own)
        if value.numel() != own.numel() or (value.shape != own.shape and not _same_numbers(value, own)):
            raise CheckpointError(f"{source}: {key} has shape {tuple(value.shape)}, expected {tuple(own.shape)}")
        if value.is_floating_point() and value.itemsize == 1:
            value = value.float()  # torch computes nothing with 8-bit floats
        fitted[key] = value.reshape(own.shape)
    return fitted, absent


def state_digest(state: Mapping[str, Tensor]) -> str:
    """Return the sha256 (hex) over names, shapes, types and bytes of tensors."""
    total = hashlib.sha256()
    for key in sorted(state):
        value = state[key].detach().cpu().contiguous()
        total.update(f"{key} {tuple(value.shape)} {value.dtype};".encode())
        total.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def _same_numbers(value: Tensor, own: Tensor) -> bool:
    """Whether two shapes hold the same numbers in the same order: trailing ones, or leading axes joined."""
    if value.ndim == own.ndim:
        return False
    squeezed = [size for size in value.shape if size != 1]
    return squeezed == [size for size in own.shape if size != 1] or value.shape[-1] == own.shape[-1]
