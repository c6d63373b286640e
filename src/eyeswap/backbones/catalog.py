"""The catalog: every backbone variant as data, read from ``catalog/<family>.yaml``.

An entry says which network, where it is read, how images meet it and where its weights lie. It holds the
*controlled* wiring; ``as_published`` lists what the published study did otherwise, so that both can be
built from one entry. In the YAML, an entry may start from another with ``base``; names with a leading
underscore are only bases. What the published study has and the catalog has not is in ``left-out.yaml``.
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
        file: name of the file; for packaged weights, below the package's ``checkpoints`` folder.
        layout: how the network's tensors lie in the file, see `eyeswap.backbones.weights.LAYOUTS`.
        licence: licence of the weights, which need not be that of any code.
        commercial_use: whether the licence allows it; where not, loading says so once.
        key: which weights of a whole training checkpoint are read, ``model`` or their moving average ``model_ema``;
            None for files that hold one set.
        url: address of the file, for weights on a plain web server; where it ends in ``.zip``, the file lies inside.
        page: where a person can get a file that no program can.
        hub: ``owner/name`` of a Hugging Face repository that holds the file.
        sha256: digest of the file where known.
        packaged: whether the file ships with the package or is made by ``eyeswap pretrain``, not downloaded.
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
        """Where the file lies in a folder of weights: hub files below their repository, as many have one name."""
        return Path(self.hub or "", self.file)

    def packaged_path(self) -> Path:
        """Return where a packaged file lies in the installed package."""
        return Path(str(resources.files("eyeswap"))) / "checkpoints" / self.file


class Size(_Data):
    """What the part that runs amounts to, on the geometry's canvas.

    Attributes:
        parameters: number of parameters up to the tap.
        tokens: rows and columns of visual tokens.
        width: width ``D`` of a token.
    """

    parameters: int
    tokens: tuple[int, int]
    width: int


class Quality(_Data):
    """What the authors of a detector or segmentor report about all of it.

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
        name: catalog name; one that ends in ``:model`` or ``:model_ema`` reads other weights of the same file.
        family: which kind of network.
        variant: which network of the family, where it has several.
        architecture: arguments of the network but the tap.
        tap: where features are read; its form is the family's.
        geometry: how images meet the network.
        weights: where the weights come from.
        objective: what the weights were trained for.
        pretraining: data they were trained on.
        aliases: other names, those of the published code among them.
        top1: published accuracy of the whole network in percent on ImageNet-1K, where it applies.
        top1_source: who published it.
        quality: the same for detectors and segmentors.
        notes: what a reader must know.
        as_published: fields (``tap``, ``geometry``, ``architecture``) that differ in the published study.
        size: recorded, so that listing builds no network; never taken over from a base. See `measured`.
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
        """Return the recorded size; without a record, that of the network itself, built without memory."""
        if self.size is not None:
            return self.size
        network = self.build_on_meta()
        grid = network.token_grid(*self.geometry.canvas)
        return Size(parameters=network.num_parameters, tokens=grid, width=network.embed_dim)

    def wired(self, wiring: Wiring = "controlled") -> BackboneEntry:
        """Return this entry as the wiring wants it: itself, or with the published differences applied."""
        if wiring == "controlled":
            return self
        own = self.model_dump(mode="json", exclude={"as_published", "size"})
        return BackboneEntry.model_validate(_merge(own, self.as_published))

    def with_changes(self, *, tap: str | None = None, geometry: str | None = None) -> Self:
        """Return this entry read elsewhere or seeing images otherwise.

        Args:
            tap: a number, or parts joined by commas: ``2,before`` in MambaVision, ``3,-1`` in VMamba, where the norm
                behind the tap may be the third (``3,-1,plain``).
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
        """Build the network without memory.

        Raises:
            SpecError: if the network has no such tap.
        """
        try:
            self.build_on_meta()
        except (TypeError, ValueError):
            raise SpecError(f"{self.name}: tap {self.tap!r} is no tap of the {self.family} family") from None

    def build(self, wiring: Wiring = "controlled") -> VisionBackbone:
        """Make the network, with fresh weights."""
        wired = self.wired(wiring)
        module, name = NETWORKS[self.variant or self.family]
        network = getattr(importlib.import_module(f"eyeswap.backbones.{module}"), name)
        built: VisionBackbone = network(**wired.architecture, tap=wired.tap)
        return built

    def build_on_meta(self) -> VisionBackbone:
        """Make the network without memory for its weights."""
        import torch

        with torch.device("meta"):
            return self.build()


@functools.cache
def entries() -> dict[str, BackboneEntry]:
    """Return all entries by name, in the order of the families and files.

    Raises:
        SpecError: if a catalog file is not valid; the message names file, entry and field.
    """
    found: dict[str, BackboneEntry] = {}
    for family in FAMILIES:
        file = f"{family}.yaml"
        raw: dict[str, Any] = parse_own_yaml((_FOLDER / file).read_text(encoding="utf-8"))
        for name in raw:
            if name.startswith("_"):
                continue
            try:
                found[name] = BackboneEntry.model_validate({"name": name, **_resolve(raw, name)})
            except ValidationError as error:
                first = error.errors()[0]
                field = ".".join(map(str, first["loc"]))
                raise SpecError(f"{file}: {name}: {field}: {first['msg']}") from None
    return found


def names() -> list[str]:
    """Return the names of all entries."""
    return list(entries())


@functools.cache
def left_out() -> dict[str, str]:
    """Return the variants of the published study that are not in the catalog, with the reason for each."""
    reasons: dict[str, str] = parse_own_yaml((_FOLDER / "left-out.yaml").read_text(encoding="utf-8"))
    return reasons


def find(name: str) -> BackboneEntry | None:
    """Return an entry by name or alias, or with a `WeightsKey` of its file behind a colon; None where there is none."""
    known, (plain, colon, key) = entries(), name.partition(":")
    found = known.get(plain) or next((entry for entry in known.values() if plain in entry.aliases), None)
    if found is None or not colon or found.weights.key == key:
        return found
    if found.weights.key is None or key not in get_args(WeightsKey):
        return None
    weights = found.weights.model_copy(update={"key": key})
    return found.model_copy(update={"name": f"{found.name}:{key}", "weights": weights})


def entry(name: str) -> BackboneEntry:
    """Return an entry by name or alias.

    Raises:
        SpecError: if there is none; the message says why it was left out, or names the nearest.
    """
    found = find(name)
    if found is not None:
        return found
    if name in left_out():
        raise SpecError(f"{name} is not in the catalog: {left_out()[name]}")
    close = difflib.get_close_matches(name, names(), n=1, cutoff=0.4)
    hint = f"did you mean {close[0]}? " if close else ""
    raise SpecError(f"no backbone {name!r} in the catalog: {hint}`eyeswap backbones list` shows all {len(names())}")


def _resolve(raw: dict[str, Any], name: str) -> dict[str, Any]:
    """Return an entry with everything its bases say filled in."""
    if name not in raw:
        raise SpecError(f"catalog: base {name!r} does not exist")
    own = dict(raw[name])
    bases = own.pop("base", [])
    resolved: dict[str, Any] = {}
    for base in [bases] if isinstance(bases, str) else bases:
        resolved = _merge(resolved, _resolve(raw, base))
    for own_alone in ("size", "aliases"):
        resolved.pop(own_alone, None)
    return _merge(resolved, own)


def _merge(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Return ``under`` with the values of ``over``, dictionaries merged key by key."""
    merged = dict(under)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = _merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def _number(text: str) -> int | str:
    return int(text) if text.lstrip("-").isdigit() else text
