"""From a name to a frozen network with its weights, its image geometry and a record of both.

`load_backbone` accepts a catalog name, a file with an encoder of one's own, and, with the timm extra, any
timm model. Loading is strict: every key that a file lacks or has too many is either declared (parts beyond
the tap, heads, optional layer scales) or an error that names it.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eyeswap.backbones import catalog
from eyeswap.backbones.base import VisionBackbone
from eyeswap.backbones.catalog import BackboneEntry, Wiring
from eyeswap.backbones.vmamba_names import official_state_dict
from eyeswap.errors import CheckpointError
from eyeswap.files import read_array_pickle, read_safetensors, read_torch_weights, sha256_of
from eyeswap.geometry import ImageGeometry


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
class LoadedBackbone:
    """A backbone ready for use.

    Attributes:
        name: as asked for.
        family: family of the network; ``own`` or ``timm`` outside of the catalog.
        network: the network, without gradients. In the controlled wiring it stays in eval mode for good; as
            published, it follows its parent's ``train()``.
        geometry: how images meet it.
        weights_sha256: digest of the weights.
        wiring: which wiring was built.
        tap: the tap asked for in place of the backbone's own, if any.
        entry: the catalog entry as wired, if the name is one of the catalog.
    """

    name: str
    family: str
    network: VisionBackbone
    geometry: ImageGeometry
    weights_sha256: str
    wiring: Wiring = "controlled"
    tap: str | None = None
    entry: BackboneEntry | None = None

    @property
    def token_grid(self) -> tuple[int, int]:
        """Rows and columns of tokens on the geometry's canvas."""
        return self.network.token_grid(*self.geometry.canvas)

    def describe(self) -> str:
        """Return one readable line."""
        rows, columns = self.token_grid
        tap = "" if self.entry is None else f", tap {self.entry.tap}"
        return (
            f"{self.name} ({self.family}, {self.network.num_parameters / 1e6:.1f}M parameters{tap}): "
            f"{rows}x{columns} tokens of width {self.network.embed_dim} from {self.geometry}; {self.wiring}"
        )

    def record(self) -> dict[str, Any]:
        """Return what a run's ``spec.json`` holds about the backbone."""
        return {
            "name": self.name,
            "family": self.family,
            "weights_sha256": self.weights_sha256,
            "embed_dim": self.network.embed_dim,
            "num_parameters": self.network.num_parameters,
            "token_grid": list(self.token_grid),
            "tap": None if self.entry is None else self.entry.model_dump(mode="json")["tap"],
            "geometry": self.geometry.canonical(),
            "frozen_mode": "eval" if self.wiring == "controlled" else "train",
        }


def load_backbone(
    name: str,
    weights: Path | Mapping[str, Tensor] | None = None,
    wiring: Wiring = "controlled",
    *,
    tap: str | None = None,
    geometry: str | None = None,
) -> LoadedBackbone:
    """Load a backbone, frozen.

    Args:
        name: a catalog name, ``path/to/file.py:function``, or ``timm:<model>``.
        weights: a checkpoint file or its tensors, in the official layout of the entry or as the network's own
            ``state_dict``; by default the packaged file, or the official one, downloaded once.
        wiring: ``controlled`` or ``as-published``.
        tap: another tap, see `BackboneEntry.with_changes`.
        geometry: another geometry, see `ImageGeometry.override`.

    Raises:
        SpecError: if the name, tap or geometry does not exist.
        CheckpointError: if the weights are missing, untrusted or do not fit; the message names the key.
        EnvironmentProblem: if ``timm:`` is used without the timm extra.
    """
    if name.startswith("timm:") or ".py:" in name:
        loaded = _load_external(name, weights, tap, geometry)
    else:
        entry = catalog.entry(name).wired(wiring).with_changes(tap=tap, geometry=geometry)
        network = entry.build()
        state, digest = _read_entry(entry, weights)
        state = official_state_dict(state) if entry.family == "vmamba" else state
        load_state(network, state, source=f"{name}: {weights if isinstance(weights, Path) else entry.weights.file}")
        loaded = LoadedBackbone(name, entry.family, network, entry.geometry, digest, entry=entry)
    if wiring == "controlled":
        loaded.network.freeze()
    else:
        loaded.network.requires_grad_(False)
    return dataclasses.replace(loaded, wiring=wiring, tap=tap)


def load_state(network: VisionBackbone, state: Mapping[str, Tensor], source: str) -> None:
    """Fill a network with tensors, strictly.

    What may be too much or lacking, the network declares itself: ``beyond_tap`` and ``may_lack``.

    Args:
        network: the network to fill.
        state: tensors under official names; shapes may differ by a reshape of the same numbers.
        source: file or name for the error message.

    Raises:
        CheckpointError: naming the first key that is missing, unexpected, of another shape, or not finite.
    """
    expected = network.state_dict()
    beyond, may_lack = network.beyond_tap, (*network.may_lack, ".num_batches_tracked")
    missing = [key for key in expected if key not in state and not key.endswith(may_lack)]
    unexpected = [key for key in state if key not in expected and not key.startswith(beyond)]
    for kind, keys in (("missing", missing), ("unexpected", unexpected)):
        if keys:
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            raise CheckpointError(f"{source}: {kind} key {keys[0]}{more}; is this the right file for this entry?")
    fitted = {}
    for key, own in expected.items():
        value = state.get(key, own)
        if value.numel() != own.numel() or (value.shape != own.shape and not _same_numbers(value, own)):
            raise CheckpointError(f"{source}: {key} has shape {tuple(value.shape)}, expected {tuple(own.shape)}")
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise CheckpointError(f"{source}: {key} has numbers that are not finite")
        fitted[key] = value.reshape(own.shape)
    network.load_state_dict(fitted)


def unpack(content: Mapping[str, Any], layout: Layout, source: str) -> dict[str, Tensor]:
    """Take a backbone's tensors out of the content of a checkpoint file.

    Raises:
        CheckpointError: if the file is not laid out like this.
    """
    for container in layout.containers:
        if container in content:
            content = content[container]
            break
    else:
        if layout.containers:
            wanted = " or ".join(layout.containers)
            raise CheckpointError(f"{source}: no key {wanted} at the top; it has {', '.join(list(content)[:5])}")
    state = {}
    for key, value in content.items():
        if not key.startswith(layout.prefix):
            continue
        name = key.removeprefix(layout.prefix)
        for prefix in layout.strip:
            name = name.removeprefix(prefix)
        state[name] = torch.as_tensor(value)
    if not state:
        raise CheckpointError(f"{source}: no key starts with {layout.prefix!r}")
    return state


def read_weights(path: Path, layout: Layout) -> dict[str, Tensor]:
    """Read a checkpoint file; a ``.safetensors`` file holds the tensors at the top, whatever the layout.

    Raises:
        CheckpointError: if it is missing, untrusted or laid out otherwise.
    """
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    content = read_array_pickle(path) if path.suffix == ".pkl" else read_torch_weights(path)
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, expected a dictionary of tensors")
    return unpack(content, layout, str(path))


def state_digest(state: Mapping[str, Tensor]) -> str:
    """Return the sha256 (hex) over names, shapes, types and bytes of tensors."""
    total = hashlib.sha256()
    for key in sorted(state):
        value = state[key].detach().cpu().contiguous()
        total.update(f"{key} {tuple(value.shape)} {value.dtype};".encode())
        total.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def _read_entry(entry: BackboneEntry, weights: Path | Mapping[str, Tensor] | None) -> tuple[dict[str, Tensor], str]:
    """Return the tensors of an entry under official names, and the digest of what they came from."""
    if isinstance(weights, Mapping):
        return dict(weights), state_digest(weights)
    path = _default_path(entry) if weights is None else weights
    state = read_weights(path, LAYOUTS[entry.weights.layout])
    return state, sha256_of(path)


def _default_path(entry: BackboneEntry) -> Path:
    if not entry.weights.packaged:
        from eyeswap.backbones.download import fetch

        return fetch(entry.weights)
    path = entry.weights.packaged_path()
    if not path.is_file():
        raise CheckpointError(f"{path}: not in this installation; `eyeswap pretrain {entry.name}` makes it")
    return path


def _load_external(
    name: str, weights: Path | Mapping[str, Tensor] | None, tap: str | None, geometry: str | None
) -> LoadedBackbone:
    from eyeswap.backbones import external

    if name.startswith("timm:"):
        network, canvas = external.from_timm(name.removeprefix("timm:"), tap, pretrained=weights is None)
    else:
        network, canvas = external.from_file(name, tap)
    if weights is not None:
        state = dict(weights) if isinstance(weights, Mapping) else read_weights(weights, LAYOUTS["plain"])
        if name.startswith("timm:"):
            state = {f"network.{key}": value for key, value in state.items()}
        load_state(network, state, source=name)
    canvas = canvas if geometry is None else canvas.override(geometry)
    family = "timm" if name.startswith("timm:") else "own"
    return LoadedBackbone(name, family, network, canvas, state_digest(network.state_dict()))


def _same_numbers(value: Tensor, own: Tensor) -> bool:
    """Whether two shapes hold the same numbers in the same order: trailing ones, or leading axes joined."""
    if value.ndim == own.ndim:
        return False
    squeezed = [size for size in value.shape if size != 1]
    return squeezed == [size for size in own.shape if size != 1] or value.shape[-1] == own.shape[-1]
