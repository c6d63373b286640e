"""The footprint of a backbone: visual tokens, parameters and FLOPs.

Footprints of the catalog and of the studies in ``studies/`` come with the package (``footprints.json``, written by
``python -m benchmarks.footprints``). Others are counted once and cached on disk under a digest of their inputs.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import resources
from typing import Any

from eyeswap.backbones import catalog
from eyeswap.backbones.catalog import BackboneEntry
from eyeswap.backbones.name import BackboneName
from eyeswap.download import cache_folder
from eyeswap.errors import DataError
from eyeswap.files import digest, parse_json, read_json, write_json
from eyeswap.geometry import ImageGeometry
from eyeswap.recipe import Wiring
from eyeswap.versions import code_version, version_of

TYPICAL_IMAGE = (640, 480)  # width and height of most COCO images, for canvases that depend on the image
SHIPPED_FILE = "footprints.json"


@dataclass(frozen=True)
class Footprint:
    """Size and cost of a backbone on the canvas of its geometry.

    Attributes:
        grid: rows and columns of visual tokens; for a 640x480 image if the canvas varies.
        width: width of a visual token.
        parameters: parameters of the network up to its tap.
        parameters_run: parameters that take part in a forward pass.
        flops: FLOPs of one image's forward pass.
        canvas: height and width of the canvas in pixels; for a 640x480 image if it varies.
    """

    grid: tuple[int, int]
    width: int
    parameters: int
    parameters_run: int
    flops: int
    canvas: tuple[int, int]

    @property
    def tokens(self) -> int:
        """Visual tokens per image."""
        return self.grid[0] * self.grid[1]

    @property
    def stride_px(self) -> float:
        """Canvas pixels between neighbouring tokens."""
        return self.canvas[0] / self.grid[0]


def backbone_footprint(name: str, wiring: Wiring, tap: str | None, geometry: str | None) -> Footprint:
    """Return the footprint of a backbone as an arm declares it, without loading weights.

    Args:
        name: catalog name, ``file.py:function``, or ``timm:<model>``.
        wiring: ``controlled`` or ``as-published``.
        tap: replaces the backbone's default tap.
        geometry: replaces the backbone's default geometry.

    Raises:
        SpecError: if name, tap or geometry does not exist.
        EnvironmentProblem: if ``timm:`` is used without the timm extra.
    """
    parsed = BackboneName.parse(name)
    return _remembered(parsed, wiring, tap, geometry, parsed.file_sha256)


@functools.lru_cache(maxsize=512)
def _remembered(
    name: BackboneName, wiring: Wiring, tap: str | None, geometry: str | None, source: str | None
) -> Footprint:
    """Look the footprint up in the package and in the cache on disk before counting, which can take seconds."""
    if name.kind == "catalog":
        entry = catalog.entry(name.model).wired(wiring).with_changes(tap=tap, geometry=geometry)
        shipped = _shipped().get(footprint_key(entry))
        if shipped is not None:
            return shipped
    code = code_version("backbones", "ops", "geometry.py", "planning/count.py")
    key = digest([str(name), wiring, tap, geometry, source, code, version_of("torch"), version_of("timm")])
    path = cache_folder().parent / "footprints" / f"{key[:24]}.json"
    try:
        return _read(read_json(path))
    except (DataError, KeyError, TypeError):  # not cached yet, or by another version
        footprint = _measured(name, wiring, tap, geometry)
    with contextlib.suppress(OSError):  # an unwritable cache is simply not used
        write_json(path, asdict(footprint))
    return footprint


def footprint_key(entry: BackboneEntry) -> str:
    """Return the digest of everything that determines a catalog entry's footprint: network, tap and canvas."""
    return digest([entry.family, entry.architecture, entry.tap, _canvas(entry.geometry)])[:16]


def _canvas(geometry: ImageGeometry) -> tuple[int, int]:
    """Return height and width of the canvas, for a typical image if it varies."""
    columns, rows = geometry.placement(*TYPICAL_IMAGE).canvas_size
    return rows, columns


@functools.cache
def _shipped() -> dict[str, Footprint]:
    text = (resources.files("eyeswap.planning") / SHIPPED_FILE).read_text(encoding="utf-8")
    return {key: _read(plain) for key, plain in parse_json(text).items()}


def _read(plain: Mapping[str, Any]) -> Footprint:
    return Footprint(**{**plain, "grid": tuple(plain["grid"]), "canvas": tuple(plain["canvas"])})


def _measured(name: BackboneName, wiring: Wiring, tap: str | None, geometry: str | None) -> Footprint:
    import torch

    from eyeswap.backbones import external
    from eyeswap.planning.count import measure

    if name.kind == "catalog":
        entry = catalog.entry(name.model).wired(wiring).with_changes(tap=tap, geometry=geometry)
        return measure(entry.build_on_meta(), entry.geometry)
    with torch.device("meta" if name.kind == "timm" else "cpu"):
        network, canvas = external.build(name, tap, pretrained=False)
    return measure(network, canvas if geometry is None else canvas.override(geometry))
