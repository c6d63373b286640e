"""What a run must record for the audit beyond what was asked for: how images truly met their canvas, and the like.

All of it is measured, on the images that the run sees and on the network that it runs.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eyeswap.backbones import catalog
from eyeswap.backbones.weights import LoadedBackbone
from eyeswap.geometry import ImageGeometry, Placement
from eyeswap.images import image_size
from eyeswap.planning.count import measure
from eyeswap.planning.spec import Study
from eyeswap.runs.record import CanvasUse, Observed, TapNorm

MOST_IMAGES = 2000  # of each data set; more would not move a share by a percent


def observed(
    study: Study, loaded: LoadedBackbone, root: Path, image_sets: Mapping[str, Sequence[str]], positions: int | None
) -> Observed:
    """Return what goes under ``observed`` in a run's record.

    Args:
        study: the study.
        loaded: the frozen backbone with its geometry.
        root: folder that image paths are relative to.
        image_sets: images of the training data and of each benchmark, by name.
        positions: positions of the language model; None if it has no limit.
    """
    return Observed(
        matched=study.matched,
        llm_positions=positions,
        tap_norm=tap_norm(loaded),
        parameters_run=parameters_run(loaded),
        canvas=canvas_of(loaded.geometry, loaded.name, root, image_sets),
    )


def canvas_of(
    geometry: ImageGeometry, backbone: str, root: Path, image_sets: Mapping[str, Sequence[str]]
) -> dict[str, CanvasUse]:
    """Return how data sets lie on a canvas; those without a readable image are left out.

    Args:
        geometry: how images meet the canvas.
        backbone: its name; in the catalog it has a geometry of its own to compare the scale with.
        root: folder that image paths are relative to.
        image_sets: images of each data set.
    """
    entry = catalog.find(backbone)
    own = None if entry is None else entry.geometry
    uses = {name: canvas_use(geometry, own, root, images) for name, images in image_sets.items()}
    return {name: use for name, use in uses.items() if use is not None}


def canvas_use(
    geometry: ImageGeometry, own: ImageGeometry | None, root: Path, images: Sequence[str]
) -> CanvasUse | None:
    """Measure how images lie on a canvas, from their sizes alone.

    Args:
        geometry: how images meet the canvas.
        own: the geometry to compare the scale with.
        root: folder that paths are relative to.
        images: paths; of many, an even part is measured.

    Returns:
        None if no image can be read.
    """
    distinct = list(dict.fromkeys(images))
    picks = np.linspace(0, len(distinct) - 1, min(len(distinct), MOST_IMAGES)).round().astype(int)
    found = [_size(root / distinct[pick]) for pick in picks]
    sizes = [size for size in found if size is not None]
    if not sizes:
        return None
    placements = [geometry.placement(*size) for size in sizes]
    stretches = [max(one.scale) / min(one.scale) for one in placements]
    return CanvasUse(
        num_images=len(distinct),
        num_measured=len(sizes),
        padding=_rounded(np.mean([1 - _shown(one) / _area(one.canvas_size) for one in placements])),
        cut=_rounded(np.mean([1 - _shown(one) / _drawn(one) for one in placements])),
        scale=_rounded(np.median([_scale(one) for one in placements])),
        own_scale=None if own is None else _rounded(np.median([_scale(own.placement(*size)) for size in sizes])),
        stretch=_rounded(np.median(stretches)),
    )


def tap_norm(loaded: LoadedBackbone) -> TapNorm | None:
    """Return which norm the features pass last; None for networks outside of the catalog, whose norms are unknown."""
    if loaded.entry is None:
        return None
    entry = loaded.entry
    if entry.family in ("vmamba", "spatial-mamba"):
        norms: dict[str, TapNorm] = {"trained": "trained", "plain": "untrained", "none": "none"}
        return norms[entry.architecture["norm"]]
    is_normed = {
        "mambavision": isinstance(entry.tap, tuple) and entry.tap[1] == "norm",
        "vit": bool(entry.architecture.get("final_norm", False)),
        "vim": bool(entry.architecture.get("final_norm", False)),
        "vit-adapter": True,
    }
    return "trained" if is_normed.get(entry.family, False) else "none"


def parameters_run(loaded: LoadedBackbone) -> int | None:
    """Return how many parameters take part in a forward pass; None if that cannot be found out."""
    try:
        return measure(loaded.network, loaded.geometry).parameters_run
    except Exception:  # an encoder of one's own may do what tensors without numbers cannot; the run must go on
        return None


@functools.lru_cache(maxsize=100_000)
def _size(path: Path) -> tuple[int, int] | None:
    return image_size(path)


def _shown(placement: Placement) -> float:
    """Return the area of the canvas that shows the image, square pixels."""
    x1, y1, x2, y2 = placement.content_box
    return max(x2 - x1, 0.0) * max(y2 - y1, 0.0)


def _drawn(placement: Placement) -> float:
    """Return the area that the whole image would take, square canvas pixels."""
    return _area(placement.image_size) * placement.scale[0] * placement.scale[1]


def _area(size: tuple[int, int]) -> float:
    return float(size[0] * size[1])


def _scale(placement: Placement) -> float:
    return float(np.sqrt(placement.scale[0] * placement.scale[1]))


def _rounded(value: float | np.floating[Any]) -> float:
    return round(float(value), 4) + 0.0
