"""From a checkpoint file into a network, strictly.

Official files lie in a handful of layouts. Every key that a file lacks or has too many is either declared by the
network (parts beyond the tap, heads, optional layer scales) or an error that names it. A file of a person's own is
refused as strictly, but the error says what it looks like and which command makes one that fits.
"""

from __future__ import annotations

import functools
import hashlib
import zipfile
from collections.abc import Collection, Iterator, Mapping
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


def read_weights(
    path: Path, layout: Layout, expected: Collection[str] = (), *, shapes_only: bool = False
) -> dict[str, Tensor]:
    """Read a checkpoint file; a ``.safetensors`` file holds the tensors at the top, whatever the layout.

    Args:
        path: the file.
        layout: how tensors lie in it.
        expected: keys of the network that it is meant for, for the advice of an error.
        shapes_only: leave the numbers on disk, where the file's format can: tensors are for their shapes alone.

    Raises:
        CheckpointError: if it is missing, untrusted or laid out otherwise.
    """
    if path.suffix == ".safetensors":
        return read_safetensors_shapes(path) if shapes_only else read_safetensors(path)
    return unpack(_read_content(path), layout, str(path), expected)


def _read_content(path: Path) -> Mapping[str, Any]:
    """Return the dictionary that a checkpoint file holds.

    Whole training checkpoints hold several times the weights: where the format can, a tensor stays on disk until used.
    """
    if path.suffix == ".zip":
        raise CheckpointError(f"{path}: an archive; unpack it and give the file inside")
    is_pickle = path.suffix == ".pkl"
    content = read_array_pickle(path) if is_pickle else read_torch_weights(path, mmap=zipfile.is_zipfile(path))
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, expected a dictionary of tensors")
    return content


def unpack(
    content: Mapping[str, Any], layout: Layout, source: str, expected: Collection[str] = ()
) -> dict[str, Tensor]:
    """Take a backbone's tensors out of the content of a checkpoint file; arguments as for `read_weights`.

    Raises:
        CheckpointError: if the file is not laid out like this.
    """
    told = functools.partial(advice, content, expected)
    if layout.containers:
        container = next((key for key in layout.containers if isinstance(content.get(key), Mapping)), None)
        if container is None:
            wanted, there = " or ".join(layout.containers), ", ".join(map(str, list(content)[:5]))
            remedy = told() or (AT_THE_TOP if any(map(_is_tensor, content.values())) else "")
            raise CheckpointError(
                f"{source}: no tensors under {wanted} at the top; it has {there or 'nothing'}{remedy}"
            )
        content = content[container]
    state = {}
    for key, value in content.items():
        if not str(key).startswith(layout.prefix):
            continue
        if not _is_tensor(value):
            kind = type(value).__name__
            raise CheckpointError(f"{source}: {key} is a {kind}, expected a tensor of numbers{told()}")
        name = str(key).removeprefix(layout.prefix)
        for prefix in layout.strip:
            name = name.removeprefix(prefix)
        state[name] = torch.as_tensor(value)
    if not state and layout.prefix:
        raise CheckpointError(f"{source}: no key starts with {layout.prefix!r}{told()}")
    return state


def repack(path: Path, key: str = "", prefix: str = "") -> dict[str, Tensor]:
    """Take the weights of a network out of a person's checkpoint.

    Args:
        path: a ``.pth``, ``.pkl`` or ``.safetensors`` file.
        key: where in the file they lie, dots between nested dictionaries; empty for the top.
        prefix: what their names begin with; others are left out.

    Returns:
        The tensors, under their names without the prefix.

    Raises:
        CheckpointError: if the file cannot be trusted, or holds no such weights.
    """
    content: Any = read_safetensors(path) if path.suffix == ".safetensors" else _read_content(path)
    for part in key.split(".") if key else ():
        inner = content.get(part) if isinstance(content, Mapping) else None
        if not isinstance(inner, Mapping):
            raise CheckpointError(f"{path}: holds nothing under {key}{advice(content)}")
        content = inner
    wanted = {str(name): value for name, value in content.items() if str(name).startswith(prefix)}
    tensors = {name.removeprefix(prefix): value for name, value in wanted.items() if _is_tensor(value)}
    if not tensors:
        raise CheckpointError(f"{path}: no tensor under {key or 'the top'} begins with {prefix!r}{advice(content)}")
    return {name: torch.as_tensor(value).contiguous().clone() for name, value in tensors.items()}


AT_THE_TOP = "; if these are the weights: `eyeswap backbones convert FILE OUT.safetensors` makes a file that is read"


def advice(content: Mapping[str, Any], expected: Collection[str] = (), place: str = "") -> str:
    """Return what a person's checkpoint looks like, and the command that makes a file that fits.

    Args:
        content: what it holds.
        expected: keys of the network that it is meant for, where known.
        place: where in its file the content lies; empty for the top.

    Returns:
        The end of an error's line; empty if the checkpoint is of no known kind.
    """
    places = list(_places(content))
    if not places:
        return ""
    known = tuple(expected)
    key, names = max(places, key=lambda place: (sum(name.endswith(known) for name in place[1]), len(place[1])))
    prefix = _common_prefix(names, expected)
    if not key and not prefix:
        return ""  # a file of the right kind, of another network
    others = [f'"{other}"' for other, those in places if other != key and 2 * len(those) > len(names)]
    facts = [f'the weights lie under "{key}"'] if key else []
    facts += [f"others under {' and '.join(others[:2])}"] if others else []
    facts += [f'their names begin with "{prefix}"'] if prefix else []
    options = [f"--key {found}" for found in (".".join(filter(None, (place, key))),) if found]
    options += [f"--strip {prefix}"] if prefix else []
    command = " ".join(["eyeswap backbones convert FILE OUT.safetensors", *options])
    return f". It looks like a checkpoint of another kind: {', '.join(facts)}; `{command}` makes a file that is read"


def _places(content: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[str, Collection[str]]]:
    """Yield where in a checkpoint tensors lie, up to three dictionaries deep, with their names."""
    names = [str(name) for name, value in content.items() if _is_tensor(value)]
    if names:
        yield ".".join(above), names
    for name, value in content.items():
        if isinstance(value, Mapping) and len(above) < 3:
            yield from _places(value, (*above, str(name)))


def _common_prefix(names: Collection[str], expected: Collection[str]) -> str:
    """Return what stands before the keys of a network in a checkpoint's names, dot included; empty if nothing does."""
    if not expected:
        first, last = min(names), max(names)  # what these two share, all share
        shared = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), 0)
        return first[: first.rfind(".", 0, shared) + 1]
    known = set(expected)
    if any(name in known for name in names):
        return ""
    there = set(names)
    found = {name[: -len(key)] for name in names for key in known if name.endswith(f".{key}")}
    fits = {prefix: sum(f"{prefix}{key}" in there for key in known) for prefix in found}
    best = max(fits, key=lambda prefix: (fits[prefix], -len(prefix)), default="")
    return best if best and 2 * fits[best] > len(known) else ""


def _is_tensor(value: object) -> bool:
    return isinstance(value, Tensor) or (isinstance(value, np.ndarray) and value.dtype.kind in "biufc")


def load_state(network: VisionBackbone, state: Mapping[str, Tensor], source: str, place: str = "") -> KeyReport:
    """Fill a network with tensors, strictly.

    Args:
        network: the network to fill.
        state: tensors under official names; shapes may differ by a reshape of the same numbers.
        source: file or name for the error message.
        place: where in the file the tensors lay; empty for the top.

    Raises:
        CheckpointError: naming the first key that is missing, unexpected, of another shape, or not finite.
    """
    fitted, absent = fit_state(network, state, source, place)
    for key, value in fitted.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise CheckpointError(f"{source}: {key} has numbers that are not finite")
    network.load_state_dict(fitted)
    return KeyReport(found=len(state), used=len(fitted) - len(absent), default=tuple(absent))


def fit_state(
    network: VisionBackbone, state: Mapping[str, Tensor], source: str, place: str = ""
) -> tuple[dict[str, Tensor], list[str]]:
    """Hold tensors against a network by their names and shapes; neither's numbers are looked at.

    What may be too much or lacking, the network declares itself: ``beyond_tap``, ``may_lack`` and ``recomputed``.

    Args:
        network: the network to fill, which may lie on the meta device.
        state: tensors under official names; shapes may differ by a reshape of the same numbers.
        source: file or name for the error message.
        place: where in the file the tensors lay; empty for the top.

    Returns:
        The network's state with these tensors, in the network's shapes, and the keys that keep their starting value.

    Raises:
        CheckpointError: naming the first key that is missing, unexpected, or of another shape.
    """
    expected = network.state_dict()
    for part, kind in network.foreign.items():
        if any(part in key for key in state):
            raise CheckpointError(f"{source}: has keys of {part!r}: {kind}")
    beyond, may_lack = network.beyond_tap, (*network.may_lack, ".num_batches_tracked")
    absent = [key for key in expected if key not in state]
    missing = [key for key in absent if not key.endswith(may_lack)]
    unneeded = [key for key in state if key not in expected and not key.startswith(beyond)]
    unexpected = [key for key in unneeded if not key.endswith(network.recomputed)]
    for kind, keys in (("missing", missing), ("unexpected", unexpected)):
        if keys:
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            told = advice(state, missing, place) or "; is this the right file for this entry?"
            raise CheckpointError(f"{source}: {kind} key {keys[0]}{more}{told}")
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
