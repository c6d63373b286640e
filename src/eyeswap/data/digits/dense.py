"""Scenes with the boxes and categories of their things, for dense objectives, and as files in the official layouts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from eyeswap.data.digits.scene import KINDS, Scene, Split, label_map, render, sample_scene
from eyeswap.data.formats import ade20k
from eyeswap.data.formats.coco import YEAR, Instance, InstanceImage, write_instances
from eyeswap.files import atomic_path

BACKGROUND = "background"  # a category of its own, as every pixel of ADE20K has one
SPLITS: tuple[Split, ...] = ("train", "val")
_SCENE_SEED = 5  # starts the seed of every scene, so that none is shared with benchmarks, pretraining or probes
_JPEG_QUALITY = 92


def dense_scene(split: Split, index: int, seed: int = 0) -> Scene:
    """Return a scene by its number; validation scenes have handwriting that no training scene shows."""
    return sample_scene(np.random.default_rng([_SCENE_SEED, seed, int(split == "val"), index]), split)


def scene_instances(scene: Scene) -> tuple[Instance, ...]:
    """Return the things of a scene as objects; their categories are the positions in `KINDS`."""
    return tuple(
        Instance(KINDS.index(thing.kind), thing.box, (thing.box[2] - thing.box[0]) * (thing.box[3] - thing.box[1]))
        for thing in scene.things
    )


def write_coco(root: Path, counts: dict[Split, int], seed: int, advance: Callable[[int], None]) -> None:
    """Write scenes in COCO's layout: ``annotations/instances_{train,val}2017.json`` and ``{train,val}2017/``.

    Args:
        root: folder to write.
        counts: number of scenes of each split.
        seed: of the scenes.
        advance: called with the number of scenes done since the last call.
    """
    for split in SPLITS:
        folder = root / f"{split}{YEAR}"
        images, sizes = [], []
        for index in range(counts[split]):
            scene = dense_scene(split, index, seed)
            path = folder / f"{index + 1:012d}.jpg"
            _save(scene, path)
            images.append(InstanceImage(index + 1, path, scene_instances(scene)))
            sizes.append((scene.width, scene.height))
            advance(1)
        write_instances(root / "annotations" / f"instances_{split}{YEAR}.json", KINDS, images, sizes)


def write_ade20k(root: Path, counts: dict[Split, int], seed: int, advance: Callable[[int], None]) -> None:
    """Write scenes in ADE20K's layout: ``images/``, ``annotations/`` and ``objectInfo150.txt``.

    Args:
        root: folder to write.
        counts: number of scenes of each split.
        seed: of the scenes.
        advance: called with the number of scenes done since the last call.
    """
    ade20k.write_categories(root, (BACKGROUND, *KINDS))
    for split, part in zip(SPLITS, ade20k.PARTS, strict=True):
        for index in range(counts[split]):
            scene = dense_scene(split, index, seed)
            _save(scene, root / "images" / part / f"{index + 1:08d}.jpg")
            ade20k.write_label_map(root / "annotations" / part / f"{index + 1:08d}.png", label_map(scene))
            advance(1)


def _save(scene: Scene, path: Path) -> None:
    with atomic_path(path) as temporary:
        render(scene).save(temporary, format="JPEG", quality=_JPEG_QUALITY)
