"""Load a backbone by name: a frozen network with its weights, its image geometry and a record of both.

`load_backbone` accepts a catalog name, a Python file with an encoder of your own, and, with the timm extra, any timm
model. Weights are loaded strictly, see `eyeswap.backbones.state`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eyeswap.backbones import catalog, external
from eyeswap.backbones.base import VisionBackbone
from eyeswap.backbones.catalog import BackboneEntry
from eyeswap.backbones.fetch import fetch, warn_non_commercial
from eyeswap.backbones.name import BackboneName
from eyeswap.backbones.state import (
    LAYOUTS,
    KeyReport,
    Layout,
    fit_state,
    load_state,
    read_weights,
    state_digest,
    unpack,
)
from eyeswap.backbones.vmamba import official_state_dict
from eyeswap.digests import known_sha256
from eyeswap.errors import CheckpointError
from eyeswap.files import read_json
from eyeswap.geometry import ImageGeometry
from eyeswap.recipe import Wiring

Weights = Path | str | Mapping[str, Tensor]


@dataclass(frozen=True)
class LoadedBackbone:
    """A backbone ready for use.

    Attributes:
        name: its name; for an alias, the name of the entry.
        family: family of the network; ``own`` or ``timm`` outside the catalog.
        network: the network, without gradients. In the controlled wiring it always stays in eval mode; as
            published, it follows its parent's ``train()``.
        geometry: how an image becomes its input.
        weights_sha256: digest of the weights.
        wiring: which wiring was built.
        tap: the tap that replaced the backbone's default, if any.
        entry: the catalog entry in this wiring, for catalog names.
        weights_file: the file that the weights were read from, if any.
        keys: which tensors of that file were used.
        weights_key: which weights of a full training checkpoint were read; None for files that hold one set.
        top1: accuracy of the pretraining in percent, from the card beside a file that ``eyeswap pretrain`` wrote.
    """

    name: str
    family: str
    network: VisionBackbone
    geometry: ImageGeometry
    weights_sha256: str
    wiring: Wiring = "controlled"
    tap: str | None = None
    entry: BackboneEntry | None = None
    weights_file: Path | None = None
    keys: KeyReport | None = None
    weights_key: str | None = None
    top1: float | None = None

    @property
    def token_grid(self) -> tuple[int, int]:
        """Rows and columns of tokens on the geometry's canvas."""
        return self.network.token_grid(*self.geometry.canvas)

    def describe(self) -> str:
        """Return a one-line summary."""
        rows, columns = self.token_grid
        tap = "" if self.entry is None else f", tap {self.entry.tap}"
        return (
            f"{self.name} ({self.family}, {self.network.num_parameters / 1e6:.1f}M parameters{tap}): "
            f"{rows}x{columns} tokens of width {self.network.embed_dim} from {self.geometry}; {self.wiring}"
        )

    def record(self) -> dict[str, Any]:
        """Return the backbone's entry in a run's ``spec.json``."""
        return {
            "name": self.name,
            "family": self.family,
            "weights_sha256": self.weights_sha256,
            **({} if self.weights_key is None else {"weights_key": self.weights_key}),
            **({} if self.top1 is None else {"top1": self.top1}),
            "embed_dim": self.network.embed_dim,
            "num_parameters": self.network.num_parameters,
            "token_grid": list(self.token_grid),
            "tap": None if self.entry is None else self.entry.model_dump(mode="json")["tap"],
            "geometry": self.geometry.canonical(),
            "frozen_mode": "eval" if self.wiring == "controlled" else "train",
        }


def load_backbone(
    name: str,
    weights: Weights | None = None,
    wiring: Wiring = "controlled",
    *,
    tap: str | None = None,
    geometry: str | None = None,
) -> LoadedBackbone:
    """Load a backbone, frozen.

    Args:
        name: a catalog name, ``path/to/file.py:function`` (``build`` if no function is given), or ``timm:<model>``.
        weights: a checkpoint file, a folder that contains it under its official name, or its tensors; in the entry's
            official layout or as the network's own ``state_dict``. By default the packaged file, or the official
            one, downloaded once.
        wiring: ``controlled`` or ``as-published``.
        tap: another tap, see `BackboneEntry.with_changes`.
        geometry: another geometry, see `ImageGeometry.override`.

    Raises:
        SpecError: if the name, tap or geometry does not exist.
        CheckpointError: if the weights are missing, unsafe to read or do not fit; the message names the key.
        EnvironmentProblem: if ``timm:`` is used without the timm extra.
    """
    weights = Path(weights) if isinstance(weights, str) else weights
    parsed = BackboneName.parse(name)
    if parsed.kind == "catalog":
        loaded = _load_entry(catalog.entry(name).wired(wiring).with_changes(tap=tap, geometry=geometry), weights)
    else:
        loaded = _load_external(parsed, weights, tap, geometry)
    if wiring == "controlled":
        loaded.network.freeze()
    else:
        loaded.network.requires_grad_(False)
    top1 = _accuracy_beside(weights, loaded.name) if isinstance(weights, Path) else None
    return dataclasses.replace(loaded, wiring=wiring, tap=tap, top1=top1)


def check_backbone(
    name: str,
    wiring: Wiring = "controlled",
    *,
    weights: Path | str | None = None,
    tap: str | None = None,
    geometry: str | None = None,
) -> tuple[VisionBackbone, ImageGeometry]:
    """Check that a backbone can be loaded, without loading its weights; a missing file of the catalog is downloaded.

    The network is built on the meta device and compared with the names and shapes of the tensors in the file. Without a
    file of weights, timm models are only built, and the Hub is asked whether it can be reached.

    Args:
        name: as in `load_backbone`, like the other arguments.
        wiring: ``controlled`` or ``as-published``.
        weights: a checkpoint file; by default the published weights.
        tap: another tap.
        geometry: another geometry.

    Returns:
        The network, on the meta device for catalog and timm, and its geometry.

    Raises:
        SpecError, CheckpointError, EnvironmentProblem: as for `load_backbone`.
    """
    parsed, file = BackboneName.parse(name), None if weights is None else Path(weights)
    if parsed.kind != "catalog":
        with torch.device("meta" if parsed.kind == "timm" else "cpu"):
            network, canvas = external.build(parsed, tap, pretrained=False)
        if file is None:
            external.check_within_reach(parsed)
        else:
            fit_state(network, _external_state(parsed, file, network, shapes_only=True), f"{name}: {file}")
        return network, canvas if geometry is None else canvas.override(geometry)
    entry = catalog.entry(name).wired(wiring).with_changes(tap=tap, geometry=geometry)
    network, path = entry.build_on_meta(), _locate(entry, file)
    state = _tensors(_read(path, entry, network, is_fetched=file is None, shapes_only=True), entry)
    fit_state(network, state, f"{entry.name}: {path}", _place(path, entry))
    return network, entry.geometry


def build_backbone(name: str) -> tuple[VisionBackbone, ImageGeometry]:
    """Build a trainable backbone with freshly initialised weights; names as in `load_backbone`.

    Raises:
        SpecError: if the name does not exist.
        EnvironmentProblem: if ``timm:`` is used without the timm extra.
    """
    parsed = BackboneName.parse(name)
    if parsed.kind != "catalog":
        return external.build(parsed, None, pretrained=False)
    entry = catalog.entry(name)
    return entry.build(), entry.geometry


def _accuracy_beside(weights: Path, name: str) -> float | None:
    """Return the top-1 accuracy in percent on the card that ``eyeswap pretrain`` writes beside a file of weights."""
    file = weights.with_suffix(".card.json")
    card = read_json(file) if file.is_file() else None
    if not isinstance(card, dict) or card.get("name") != name or card.get("command") != f"eyeswap pretrain {name}":
        return None
    metrics = card.get("metrics")
    accuracy = metrics.get("top1_accuracy") if isinstance(metrics, dict) else None
    if not isinstance(accuracy, float) or not 0 <= accuracy <= 1:
        raise CheckpointError(f"{file}: metrics.top1_accuracy must be a number from 0 to 1, got {accuracy!r}")
    return round(100 * accuracy, 2)


def _load_entry(entry: BackboneEntry, weights: Path | Mapping[str, Tensor] | None) -> LoadedBackbone:
    network = entry.build()
    if isinstance(weights, Mapping):
        state = unpack(weights, LAYOUTS["plain"], entry.name, network.state_dict().keys())
        keys = load_state(network, _tensors(state, entry), f"{entry.name}: {entry.weights.file}")
        return LoadedBackbone(
            entry.name, entry.family, network, entry.geometry, state_digest(state), entry=entry, keys=keys
        )
    path = _locate(entry, weights)
    if not entry.weights.commercial_use:
        warn_non_commercial(entry.name, entry.licence)
    state, place = _read(path, entry, network, is_fetched=weights is None), _place(path, entry)
    keys = load_state(network, _tensors(state, entry), f"{entry.name}: {path}", place)
    return LoadedBackbone(
        entry.name,
        entry.family,
        network,
        entry.geometry,
        known_sha256(path),
        entry=entry,
        weights_file=path,
        keys=dataclasses.replace(keys, found=len(state)),  # not counting the copies that `official_state_dict` makes
        weights_key=entry.weights.key if place else None,
    )


def _tensors(state: dict[str, Tensor], entry: BackboneEntry) -> dict[str, Tensor]:
    """Return a file's tensors under the network's names."""
    return official_state_dict(state) if entry.family == "vmamba" else state


def _layout(entry: BackboneEntry) -> Layout:
    """Return the layout of an entry's official file; the entry's key selects weights of a training checkpoint."""
    layout, key = LAYOUTS[entry.weights.layout], entry.weights.key
    return layout if key is None else dataclasses.replace(layout, containers=(key,))


def _place(path: Path, entry: BackboneEntry) -> str:
    """Return the key of the weights in a file; empty for the top level, as in every safetensors file."""
    return "" if path.suffix == ".safetensors" else next(iter(_layout(entry).containers), "")


def _read(
    path: Path, entry: BackboneEntry, network: VisionBackbone, *, is_fetched: bool, shapes_only: bool = False
) -> dict[str, Tensor]:
    try:
        return read_weights(path, _layout(entry), network.state_dict().keys(), shapes_only=shapes_only)
    except CheckpointError as error:
        remedy = "; delete the file to download it again" if is_fetched and not entry.weights.packaged else ""
        raise CheckpointError(f"{entry.name}: {error}{remedy}") from None


def _locate(entry: BackboneEntry, weights: Path | None) -> Path:
    """Return the file to read: the given one, the one in a given folder, the packaged or the official one."""
    source = entry.weights
    if weights is not None and weights.is_dir():
        for path in (weights / source.place, weights / source.file):
            if path.is_file():
                return path
        raise CheckpointError(f"{weights}: has no {source.place}, the weights of {entry.name}")
    if weights is not None:
        return weights
    if not source.packaged:
        return fetch(source)
    if not source.packaged_path().is_file():
        path = source.packaged_path()
        raise CheckpointError(f"{path}: missing from this installation; `eyeswap pretrain {entry.name}` makes it")
    return source.packaged_path()


def _load_external(
    name: BackboneName, weights: Path | Mapping[str, Tensor] | None, tap: str | None, geometry: str | None
) -> LoadedBackbone:
    network, canvas = external.build(name, tap, pretrained=weights is None)
    keys = None
    if weights is not None:
        source = f"{name}: {weights}" if isinstance(weights, Path) else str(name)
        keys = load_state(network, _external_state(name, weights, network), source)
    return LoadedBackbone(
        str(name),
        name.kind,
        network,
        canvas if geometry is None else canvas.override(geometry),
        state_digest(network.state_dict()),
        weights_file=weights if isinstance(weights, Path) else None,
        keys=keys,
    )


def _external_state(
    name: BackboneName, weights: Path | Mapping[str, Tensor], network: VisionBackbone, *, shapes_only: bool = False
) -> dict[str, Tensor]:
    """Return tensors under the network's names, which for timm models are timm's with a prefix."""
    layout, own = LAYOUTS["plain"], network.state_dict().keys()
    expected = [key.removeprefix("network.") for key in own]
    if isinstance(weights, Mapping):
        state = unpack(weights, layout, str(name), expected)
    else:
        state = read_weights(weights, layout, expected, shapes_only=shapes_only)
    has_prefix = name.kind != "timm" or any(key in own for key in state)
    return state if has_prefix else {f"network.{key}": value for key, value in state.items()}
