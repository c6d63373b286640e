"""Load checkpoint files into networks, strictly.

Official files come in a handful of layouts. Every missing or unexpected key is either declared by the network (layers
beyond the tap, heads, optional layer scales) or an error that names it. Users' own files are checked just as strictly,
but the error says what the file looks like and which command converts it.
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
    """How a checkpoint file stores a network's tensors.

    Attributes:
        containers: top-level keys, the first one present holds the tensors; empty if they are at the top level.
        prefix: prefix of the backbone's keys; keys without it (necks and heads) are ignored.
        strip: optional prefixes that are removed.
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
    """Which tensors of a file were loaded into a network.

    Attributes:
        found: number of the backbone's tensors in the file, including layers beyond the tap.
        used: number of them that were loaded.
        default: keys that the file lacks; the network allows them to keep their initial values.
    """

    found: int
    used: int
    default: tuple[str, ...]


def read_weights(
    path: Path, layout: Layout, expected: Collection[str] = (), *, shapes_only: bool = False
) -> dict[str, Tensor]:
    """Read a checkpoint file; the layout does not apply to ``.safetensors`` files, which are always flat.

    Args:
        path: the file.
        layout: how it stores the tensors.
        expected: keys of the network that it is meant for, used for advice in error messages.
        shapes_only: whether only the tensors' shapes are needed; the data then stay on disk if the format allows.

    Raises:
        CheckpointError: if the file is missing, unsafe to read, or has another layout.
    """
    if path.suffix == ".safetensors":
        return read_safetensors_shapes(path) if shapes_only else read_safetensors(path)
    return unpack(_read_content(path), layout, str(path), expected)


def _read_content(path: Path) -> Mapping[str, Any]:
    """Return the dictionary that a checkpoint file contains.

    Full training checkpoints are several times as large as the weights, so tensors are memory-mapped if possible.
    """
    if path.suffix == ".zip":
        raise CheckpointError(f"{path}: is an archive; unpack it and pass the file inside")
    is_pickle = path.suffix == ".pkl"
    content = read_array_pickle(path) if is_pickle else read_torch_weights(path, mmap=zipfile.is_zipfile(path))
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, expected a dictionary of tensors")
    return content


def unpack(
    content: Mapping[str, Any], layout: Layout, source: str, expected: Collection[str] = ()
) -> dict[str, Tensor]:
    """Extract a backbone's tensors from the content of a checkpoint file; arguments as for `read_weights`.

    Raises:
        CheckpointError: if the file has another layout.
    """
    advise = functools.partial(advice, content, expected)
    if layout.containers:
        container = next((key for key in layout.containers if isinstance(content.get(key), Mapping)), None)
        if container is None:
            wanted, present = " or ".join(layout.containers), ", ".join(map(str, list(content)[:5]))
            remedy = advise() or (CONVERT_FLAT_FILE if any(map(_is_tensor, content.values())) else "")
            raise CheckpointError(
                f"{source}: no tensors under {wanted}; the top level has {present or 'nothing'}{remedy}"
            )
        content = content[container]
    state = {}
    for key, value in content.items():
        if not str(key).startswith(layout.prefix):
            continue
        if not _is_tensor(value):
            kind = type(value).__name__
            raise CheckpointError(f"{source}: {key} is a {kind}, expected a tensor of numbers{advise()}")
        name = str(key).removeprefix(layout.prefix)
        for prefix in layout.strip:
            name = name.removeprefix(prefix)
        state[name] = torch.as_tensor(value)
    if not state and layout.prefix:
        raise CheckpointError(f"{source}: no key starts with {layout.prefix!r}{advise()}")
    return state


def repack(path: Path, key: str = "", prefix: str = "") -> dict[str, Tensor]:
    """Extract the weights of a network from a user's checkpoint.

    Args:
        path: a ``.pth``, ``.pkl`` or ``.safetensors`` file.
        key: key of the weights, with dots between nested dictionaries; empty for the top level.
        prefix: prefix of their names; other tensors are dropped.

    Returns:
        The tensors, by their names without the prefix.

    Raises:
        CheckpointError: if the file is unsafe to read, or contains no such weights.
    """
    content: Any = read_safetensors(path) if path.suffix == ".safetensors" else _read_content(path)
    for part in key.split(".") if key else ():
        inner = content.get(part) if isinstance(content, Mapping) else None
        if not isinstance(inner, Mapping):
            raise CheckpointError(f"{path}: holds no dictionary under {key}{advice(content)}")
        content = inner
    selected = {str(name): value for name, value in content.items() if str(name).startswith(prefix)}
    tensors = {name.removeprefix(prefix): value for name, value in selected.items() if _is_tensor(value)}
    if not tensors:
        place, names = (
            (f"under {key}" if key else "at the top level"),
            (f" whose name starts with {prefix!r}" if prefix else ""),
        )
        raise CheckpointError(f"{path}: no tensor {place}{names}{advice(content)}")
    return {name: torch.as_tensor(value).contiguous().clone() for name, value in tensors.items()}


CONVERT_FLAT_FILE = "; if these are the weights, `eyeswap backbones convert FILE OUT.safetensors` makes a loadable file"


def advice(content: Mapping[str, Any], expected: Collection[str] = (), place: str = "") -> str:
    """Describe what a user's checkpoint looks like, and the command that converts it.

    Args:
        content: content of the checkpoint.
        expected: keys of the network that it is meant for, if known.
        place: key of the content in its file; empty for the top level.

    Returns:
        The end of an error message; empty if the checkpoint is of no known kind.
    """
    places = list(_places(content))
    if not places:
        return ""
    known = tuple(expected)
    key, names = max(places, key=lambda place: (sum(name.endswith(known) for name in place[1]), len(place[1])))
    prefix = _common_prefix(names, expected)
    if not key and not prefix:
        return ""  # the right kind of file, for a different network
    others = [f'"{other}"' for other, tensors in places if other != key and 2 * len(tensors) > len(names)]
    facts = [f'the weights are under "{key}"'] if key else []
    facts += [f"others under {' and '.join(others[:2])}"] if others else []
    facts += [f'their names start with "{prefix}"'] if prefix else []
    full_key = ".".join(filter(None, (place, key)))
    options = [f"--key {full_key}"] if full_key else []
    options += [f"--strip {prefix}"] if prefix else []
    command = " ".join(["eyeswap backbones convert FILE OUT.safetensors", *options])
    return f". It looks like a checkpoint of another layout: {', '.join(facts)}; `{command}` makes a loadable file"


def _places(content: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[str, Collection[str]]]:
    """Yield the dictionaries of a checkpoint that hold tensors, up to three levels deep, with the tensors' names."""
    names = [str(name) for name, value in content.items() if _is_tensor(value)]
    if names:
        yield ".".join(above), names
    for name, value in content.items():
        if isinstance(value, Mapping) and len(above) < 3:
            yield from _places(value, (*above, str(name)))


def _common_prefix(names: Collection[str], expected: Collection[str]) -> str:
    """Return the prefix, dot included, of a network's keys in a checkpoint's names; empty if there is none."""
    if not expected:
        first, last = min(names), max(names)  # a prefix that these two share is shared by all
        shared = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), 0)
        return first[: first.rfind(".", 0, shared) + 1]
    known = set(expected)
    if any(name in known for name in names):
        return ""
    present = set(names)
    prefixes = {name[: -len(key)] for name in names for key in known if name.endswith(f".{key}")}
    fits = {prefix: sum(f"{prefix}{key}" in present for key in known) for prefix in prefixes}
    best = max(fits, key=lambda prefix: (fits[prefix], -len(prefix)), default="")
    return best if best and 2 * fits[best] > len(known) else ""


def _is_tensor(value: object) -> bool:
    return isinstance(value, Tensor) or (isinstance(value, np.ndarray) and value.dtype.kind in "biufc")


def load_state(network: VisionBackbone, state: Mapping[str, Tensor], source: str, place: str = "") -> KeyReport:
    """Load tensors into a network, strictly.

    Args:
        network: the network to load into.
        state: tensors by their official names; shapes may differ by a reshape of the same numbers.
        source: file or name for the error message.
        place: key of the tensors in the file; empty for the top level.

    Raises:
        CheckpointError: naming the first key that is missing, unexpected, of another shape, or not finite.
    """
    fitted, absent = fit_state(network, state, source, place)
    for key, value in fitted.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise CheckpointError(f"{source}: {key} contains NaN or infinite values")
    network.load_state_dict(fitted)
    return KeyReport(found=len(state), used=len(fitted) - len(absent), default=tuple(absent))


def fit_state(
    network: VisionBackbone, state: Mapping[str, Tensor], source: str, place: str = ""
) -> tuple[dict[str, Tensor], list[str]]:
    """Match tensors to a network by name and shape, without reading their values.

    The network declares which keys may be extra or missing: ``beyond_tap``, ``may_lack`` and ``recomputed``.

    Args:
        network: the network to match, which may be on the meta device.
        state: tensors by their official names; shapes may differ by a reshape of the same numbers.
        source: file or name for the error message.
        place: key of the tensors in the file; empty for the top level.

    Returns:
        The network's new state, in the network's shapes, and the keys that keep their initial values.

    Raises:
        CheckpointError: naming the first key that is missing, unexpected, or of another shape.
    """
    expected = network.state_dict()
    for part, kind in network.foreign.items():
        if any(part in key for key in state):
            raise CheckpointError(f"{source}: has {part!r} keys: {kind}")
    beyond, may_lack = network.beyond_tap, (*network.may_lack, ".num_batches_tracked")
    absent = [key for key in expected if key not in state]
    missing = [key for key in absent if not key.endswith(may_lack)]
    unneeded = [key for key in state if key not in expected and not key.startswith(beyond)]
    unexpected = [key for key in unneeded if not key.endswith(network.recomputed)]
    for kind, keys in (("missing", missing), ("unexpected", unexpected)):
        if keys:
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            remedy = (advice(state, missing, place) if missing else "") or "; is this the right file for this entry?"
            raise CheckpointError(f"{source}: {kind} key {keys[0]}{more}{remedy}")
    fitted = {}
    for key, initial in expected.items():
        value, shape = state.get(key, initial), initial.shape
        if value.numel() != initial.numel() or (value.shape != shape and not _is_same_order(value, initial)):
            raise CheckpointError(f"{source}: {key} has shape {tuple(value.shape)}, expected {tuple(shape)}")
        if value.is_floating_point() and value.itemsize == 1:
            value = value.float()  # torch has no arithmetic on 8-bit floats
        fitted[key] = value.reshape(shape)
    return fitted, absent


def state_digest(state: Mapping[str, Tensor]) -> str:
    """Return the sha256 (hex) of the names, shapes, dtypes and bytes of tensors."""
    total = hashlib.sha256()
    for key in sorted(state):
        value = state[key].detach().cpu().contiguous()
        total.update(f"{key} {tuple(value.shape)} {value.dtype};".encode())
        total.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def _is_same_order(value: Tensor, initial: Tensor) -> bool:
    """Whether a reshape keeps the meaning of the numbers: axes of size one, or leading axes that are joined."""
    if value.ndim == initial.ndim:
        return False
    squeezed = [size for size in value.shape if size != 1]
    return squeezed == [size for size in initial.shape if size != 1] or value.shape[-1] == initial.shape[-1]
