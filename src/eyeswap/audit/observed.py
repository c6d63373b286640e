"""Measurements that a run records for the audit, such as the actual placement of images on the canvas.

They are taken on the run's own images and network, not derived from its configuration.
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

MAX_IMAGES = 2000  # of each data set; more would not change a share by a percent


def observed(
    study: Study, loaded: LoadedBackbone, root: Path, image_sets: Mapping[str, Sequence[str]], positions: int | None
) -> Observed:
    """Return the content of ``observed`` in a run's record.

    Args:
        study: the study.
        loaded: the frozen backbone with its geometry.
        root: folder that image paths are relative to.
        image_sets: images of the training data and of each benchmark, by name.
        positions: number of positions of the language model; None if it has no limit.
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
    """Return the placement of each data set on a canvas, without data sets that have no readable image.

    Args:
        geometry: the geometry that is used.
        backbone: name of the backbone; if the catalog has it, scales are compared with those of its own geometry.
        root: folder that image paths are relative to.
        image_sets: images of each data set.
    """
    entry = catalog.find(backbone)
    reference = None if entry is None else entry.geometry
    uses = {name: canvas_use(geometry, reference, root, images) for name, images in image_sets.items()}
    return {name: use for name, use in uses.items() if use is not None}


def canvas_use(
    geometry: ImageGeometry, reference: ImageGeometry | None, root: Path, images: Sequence[str]
) -> CanvasUse | None:
    """Measure the placement of images on a canvas from their sizes.

    Args:
        geometry: the geometry that is used.
        reference: the geometry to compare the scale with.
        root: folder that paths are relative to.
        images: image paths; if there are many, an evenly spaced sample is measured.

    Returns:
        None if no image can be read.
    """
    distinct = list(dict.fromkeys(images))
    picks = np.linspace(0, len(distinct) - 1, min(len(distinct), MAX_IMAGES)).round().astype(int)
    sizes = [size for pick in picks if (size := _size(root / distinct[pick])) is not None]
    if not sizes:
        return None
    placements = [geometry.placement(*size) for size in sizes]
    stretches = [max(placement.scale) / min(placement.scale) for placement in placements]
    return CanvasUse(
        num_images=len(distinct),
        num_measured=len(sizes),
        padding=_rounded(np.mean([1 - _visible_area(it) / _area(it.canvas_size) for it in placements])),
        cut=_rounded(np.mean([1 - _visible_area(it) / _scaled_area(it) for it in placements])),
        scale=_rounded(np.median([_scale(placement) for placement in placements])),
        own_scale=None if reference is None else _rounded(np.median([_scale(reference.placement(*s)) for s in sizes])),
        stretch=_rounded(np.median(stretches)),
    )


def tap_norm(loaded: LoadedBackbone) -> TapNorm | None:
    """Return the last norm that features pass; None for networks outside the catalog, whose norms are unknown."""
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
    """Return the number of parameters used in a forward pass; None if it cannot be determined."""
    try:
        return measure(loaded.network, loaded.geometry).parameters_run
    except Exception:  # a custom encoder may do what FakeTensors do not support; the run must go on
        return None


@functools.lru_cache(maxsize=100_000)
def _size(path: Path) -> tuple[int, int] | None:
    return image_size(path)


def _visible_area(placement: Placement) -> float:
    """Return the area of the canvas that shows the image, in square pixels."""
    x1, y1, x2, y2 = placement.content_box
    return max(x2 - x1, 0.0) * max(y2 - y1, 0.0)


def _scaled_area(placement: Placement) -> float:
    """Return the area of the whole scaled image, in square canvas pixels."""
    return _area(placement.image_size) * placement.scale[0] * placement.scale[1]


def _area(size: tuple[int, int]) -> float:
    return float(size[0] * size[1])


def _scale(placement: Placement) -> float:
    return float(np.sqrt(placement.scale[0] * placement.scale[1]))


def _rounded(value: float | np.floating[Any]) -> float:
    return round(float(value), 4) + 0.0
