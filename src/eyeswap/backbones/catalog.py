"""The catalog: every backbone variant as data, read from ``catalog/<family>.yaml``.

An entry describes the network, its tap, its image geometry and its weights. It holds the *controlled* wiring;
``as_published`` lists what the published study did differently, so that both can be built from one entry. In the YAML,
an entry may inherit from others with ``base``; names with a leading underscore serve as bases only. Variants of the
published study that are not in the catalog are listed in ``left-out.yaml``.
"""

from __future__ import annotations

import difflib
import functools
import importlib
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from eyeswap.errors import SpecError
from eyeswap.geometry import ImageGeometry
from eyeswap.recipe import Wiring
from eyeswap.yaml_reader import parse_own_yaml

if TYPE_CHECKING:
    from eyeswap.backbones.base import VisionBackbone

Family = Literal["vit", "maxvit", "vmamba", "mambavision", "vitdet", "vit-adapter", "vim", "spatial-mamba"]
Variant = Literal["beit-adapter", "uniperceiver-adapter"]
WeightsKey = Literal["model", "model_ema"]
Objective = Literal["classification", "detection", "segmentation"]
Tap = int | tuple[int, int | str]

FAMILIES: tuple[Family, ...] = get_args(Family)
NETWORKS: dict[Family | Variant, tuple[str, str]] = {
    "vit": ("vit", "ViT"),
    "maxvit": ("maxvit", "MaxViT"),
    "vmamba": ("vmamba", "VMamba"),
    "mambavision": ("mambavision", "MambaVision"),
    "vitdet": ("vitdet", "ViTDet"),
    "vit-adapter": ("vit_adapter", "ViTAdapter"),
    "beit-adapter": ("beit", "BEiTAdapter"),
    "uniperceiver-adapter": ("uniperceiver", "UniPerceiverAdapter"),
    "vim": ("vim", "Vim"),
    "spatial-mamba": ("spatial_mamba", "SpatialMamba"),
}
_FOLDER = resources.files("eyeswap.backbones") / "catalog"


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class WeightsSource(_Data):
    """Where the weights of an entry come from.

    Attributes:
        file: name of the file; for packaged weights, relative to the package's ``checkpoints`` folder.
        layout: how the file stores the network's tensors, see `eyeswap.backbones.state.LAYOUTS`.
        licence: licence of the weights, which may differ from that of the code.
        commercial_use: whether the licence allows commercial use; if not, a warning is logged once.
        key: which weights of a full training checkpoint to read, ``model`` or their moving average ``model_ema``;
            None for files that hold one set of weights.
        url: URL of a file on a plain web server; if it ends in ``.zip``, the archive contains the file.
        page: web page of a file that has to be downloaded by hand.
        hub: ``owner/name`` of the Hugging Face repository that holds the file.
        sha256: digest of the file, if known.
        packaged: whether the file ships with the package or is made by ``eyeswap pretrain`` instead of downloaded.
    """

    file: str
    layout: str
    licence: str
    commercial_use: bool = True
    key: WeightsKey | None = None
    url: str | None = None
    page: str | None = None
    hub: str | None = None
    sha256: str | None = None
    packaged: bool = False

    @property
    def place(self) -> Path:
        """Path of the file in a folder of weights; Hub files go below their repository, as many share a name."""
        return Path(self.hub or "", self.file)

    def packaged_path(self) -> Path:
        """Return the path of a packaged file in the installed package."""
        return Path(str(resources.files("eyeswap"))) / "checkpoints" / self.file


class Size(_Data):
    """Size of the network up to the tap and of its output on the geometry's canvas.

    Attributes:
        parameters: number of parameters up to the tap.
        tokens: rows and columns of visual tokens.
        width: width ``D`` of a token.
    """

    parameters: int
    tokens: tuple[int, int]
    width: int


class Quality(_Data):
    """Published accuracy of a complete detector or segmentor.

    Attributes:
        metric: what was measured.
        value: in percent.
        source: who published it.
    """

    metric: Literal["COCO box AP", "ADE20K mIoU"]
    value: float
    source: str


class BackboneEntry(_Data):
    """One backbone variant.

    Attributes:
        name: catalog name; the suffix ``:model`` or ``:model_ema`` selects other weights of the same file.
        family: family of the network.
        variant: which network of the family, if it has several.
        architecture: constructor arguments of the network, without the tap.
        tap: where features are read; the form depends on the family.
        geometry: how an image becomes the network's input.
        weights: where the weights come from.
        objective: task that the weights were trained for.
        pretraining: data that they were trained on.
        aliases: other names, including those of the published code.
        top1: published ImageNet-1K accuracy of the complete network in percent, for classifiers.
        top1_source: who published it.
        quality: published accuracy of detectors and segmentors.
        notes: what users should know.
        as_published: fields (``tap``, ``geometry``, ``architecture``) that differ in the published study.
        size: recorded so that listing the catalog builds no network; never inherited from a base. See `measured`.
    """

    name: str
    family: Family
    variant: Variant | None = None
    architecture: dict[str, Any]
    tap: Tap
    geometry: ImageGeometry
    weights: WeightsSource
    objective: Objective
    pretraining: str
    aliases: tuple[str, ...] = ()
    top1: float | None = None
    top1_source: str | None = None
    quality: Quality | None = None
    notes: str = ""
    as_published: dict[str, Any] = Field(default_factory=dict)
    size: Size | None = None

    @property
    def licence(self) -> str:
        """The licence of the weights."""
        return self.weights.licence

    @property
    def num_parameters(self) -> int:
        """Number of parameters up to the tap."""
        return self.measured().parameters

    def measured(self) -> Size:
        """Return the recorded size or, without one, that of the network built on the meta device."""
        if self.size is not None:
            return self.size
        network = self.build_on_meta()
        grid = network.token_grid(*self.geometry.canvas)
        return Size(parameters=network.num_parameters, tokens=grid, width=network.embed_dim)

    def wired(self, wiring: Wiring = "controlled") -> BackboneEntry:
        """Return this entry in the given wiring: unchanged, or with the published differences applied."""
        if wiring == "controlled":
            return self
        fields = self.model_dump(mode="json", exclude={"as_published", "size"})
        return BackboneEntry.model_validate(_merge(fields, self.as_published))

    def with_changes(self, *, tap: str | None = None, geometry: str | None = None) -> Self:
        """Return this entry with another tap or geometry.

        Args:
            tap: a number, or parts joined by commas: ``2,before`` for MambaVision, ``3,-1`` for VMamba, optionally with
                the norm after the tap (``3,-1,plain``).
            geometry: see `ImageGeometry.override`.

        Raises:
            SpecError: if the geometry does not exist, or the network has no such tap.
        """
        changes: dict[str, Any] = {}
        if geometry is not None:
            changes["geometry"] = self.geometry.override(geometry)
        if tap is not None:
            parts = tuple(_number(part.strip()) for part in tap.split(","))
            if self.family == "vmamba" and len(parts) == 3:
                changes["architecture"] = {**self.architecture, "norm": parts[2]}
                parts = parts[:2]
            changes["tap"] = parts[0] if len(parts) == 1 else parts
        if not changes:
            return self
        changed = self.model_copy(update={**changes, "size": None})
        if tap is not None:
            changed.check_tap()
        return changed

    def check_tap(self) -> None:
        """Check, by building the network on the meta device, that the tap exists.

        Raises:
            SpecError: if the network has no such tap.
        """
        try:
            self.build_on_meta()
        except (TypeError, ValueError):
            raise SpecError(f"{self.name}: tap {self.tap!r} is not a valid tap of the {self.family} family") from None

    def build(self, wiring: Wiring = "controlled") -> VisionBackbone:
        """Build the network with freshly initialised weights."""
        wired = self.wired(wiring)
        module, name = NETWORKS[self.variant or self.family]
        network = getattr(importlib.import_module(f"eyeswap.backbones.{module}"), name)
        built: VisionBackbone = network(**wired.architecture, tap=wired.tap)
        return built

    def build_on_meta(self) -> VisionBackbone:
        """Build the network on the meta device: shapes without memory."""
        import torch

        with torch.device("meta"):
            return self.build()


@functools.cache
def entries() -> dict[str, BackboneEntry]:
    """Return all entries by name, in the order of families and files.

    Raises:
        SpecError: if a catalog file is invalid; the message names file, entry and field.
    """
    catalog: dict[str, BackboneEntry] = {}
    for family in FAMILIES:
        file = f"{family}.yaml"
        raw: dict[str, Any] = parse_own_yaml((_FOLDER / file).read_text(encoding="utf-8"))
        for name in raw:
            if name.startswith("_"):
                continue
            try:
                catalog[name] = BackboneEntry.model_validate({"name": name, **_resolve(raw, name)})
            except ValidationError as error:
                first = error.errors()[0]
                field = ".".join(map(str, first["loc"]))
                raise SpecError(f"{file}: {name}: {field}: {first['msg']}") from None
    return catalog


def names() -> list[str]:
    """Return the names of all entries."""
    return list(entries())


@functools.cache
def left_out() -> dict[str, str]:
    """Return the variants of the published study that are not in the catalog, each with the reason."""
    reasons: dict[str, str] = parse_own_yaml((_FOLDER / "left-out.yaml").read_text(encoding="utf-8"))
    return reasons


def find(name: str) -> BackboneEntry | None:
    """Return an entry by name or alias, optionally followed by a colon and a `WeightsKey`; None if there is none."""
    known, (plain, colon, key) = entries(), name.partition(":")
    match = known.get(plain) or next((entry for entry in known.values() if plain in entry.aliases), None)
    if match is None or not colon or match.weights.key == key:
        return match
    if match.weights.key is None or key not in get_args(WeightsKey):
        return None
    weights = match.weights.model_copy(update={"key": key})
    return match.model_copy(update={"name": f"{match.name}:{key}", "weights": weights})


def entry(name: str) -> BackboneEntry:
    """Return an entry by name or alias.

    Raises:
        SpecError: if there is none; the message says why it was left out, or suggests the closest name.
    """
    match = find(name)
    if match is not None:
        return match
    if name in left_out():
        raise SpecError(f"{name} is not in the catalog: {left_out()[name]}")
    close = difflib.get_close_matches(name, names(), n=1, cutoff=0.4)
    hint = f"did you mean {close[0]}? " if close else ""
    raise SpecError(f"no backbone {name!r} in the catalog: {hint}`eyeswap backbones list` shows all {len(names())}")


def _resolve(raw: dict[str, Any], name: str) -> dict[str, Any]:
    """Return an entry's fields, with those of its bases filled in."""
    if name not in raw:
        raise SpecError(f"catalog: base {name!r} does not exist")
    fields = dict(raw[name])
    bases = fields.pop("base", [])
    resolved: dict[str, Any] = {}
    for base in [bases] if isinstance(bases, str) else bases:
        resolved = _merge(resolved, _resolve(raw, base))
    for not_inherited in ("size", "aliases"):
        resolved.pop(not_inherited, None)
    return _merge(resolved, fields)


def _merge(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Return ``under`` updated by ``over``, dictionaries merged recursively."""
    merged = dict(under)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = _merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def _number(text: str) -> int | str:
    return int(text) if text.lstrip("-").isdigit() else text
