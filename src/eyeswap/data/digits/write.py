"""Writing the embedded data set in the official formats and folders below one root.

The loaders of the real files read it back. Training scenes make the instruction file and, as annotations only, the
training splits of the benchmarks, on which the trivial baselines are fitted. Each benchmark family has separate
validation scenes, with handwriting that no training scene uses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from eyeswap.data.digits.benchmarks import FAMILIES, scene_examples
from eyeswap.data.digits.language import conversation
from eyeswap.data.digits.scene import Scene, render, sample_scene, scene_rng
from eyeswap.data.formats import Example, write_ocid, write_pope, write_refer, write_tallyqa, write_vqa
from eyeswap.data.instruction import Instruction, write_instructions
from eyeswap.files import atomic_path, digest, read_json, sha256_of, write_json
from eyeswap.processes import worker_pool

INSTRUCTION_FILE = "download/llava-v1.5-instruct/llava_v1_5_mix665k.json"
INSTRUCTION_IMAGES = "download/llava-v1.5-instruct"
_MANIFEST = "digits.json"
_BASELINE_SCENES = 600  # training scenes whose annotations are also written in the benchmarks' formats
_WORKERS = 2
_JPEG_QUALITY = 92


@dataclass(frozen=True)
class DigitsSize:
    """Size and seed of the embedded data set, which determine every byte."""

    seed: int = 0
    num_train_images: int = 4000
    num_val_images: int = 400
    turns: int = 10


def write_digits(root: Path, size: DigitsSize, advance: Callable[[int], None] = lambda count: None) -> str:
    """Write the data set below ``root`` unless it is already complete.

    Args:
        root: folder in which ``download/...`` is written.
        size: size and seed.
        advance: called with the number of scenes done since the last call.

    Returns:
        The digest of all files written (sha256 of their sha256 sums).
    """
    manifest = root / _MANIFEST
    wanted = {
        "seed": size.seed,
        "train": size.num_train_images,
        "val": size.num_val_images,
        "turns": size.turns,
    }
    if manifest.is_file() and (written := read_json(manifest))["size"] == wanted:
        advance(num_scenes(size))
        return str(written["digest"])
    per_family = _shares(size.num_val_images)
    with worker_pool(_WORKERS) as workers:
        make = partial(_make_training_scene, root, size.seed, size.turns)
        instructions = []
        for instruction in workers.map(make, range(size.num_train_images), chunksize=50):
            instructions.append(instruction)
            advance(1)
        train: dict[str, list[Example]] = {family: [] for family in FAMILIES}
        scenes = range(min(_BASELINE_SCENES, size.num_train_images))
        for examples in workers.map(partial(_training_examples, size.seed), scenes, chunksize=50):
            for family, of_family in examples.items():
                train[family] += of_family
        val: dict[str, list[Example]] = {}
        for family in FAMILIES:
            make_val = partial(_make_validation_scene, root, size.seed, family)
            val[family] = []
            for of_scene in workers.map(make_val, range(per_family[family]), chunksize=25):
                val[family] += of_scene
                advance(1)
    write_instructions(root / INSTRUCTION_FILE, instructions)
    _write_families(root / "download", train, val)
    sums = {
        str(path.relative_to(root)): sha256_of(path)
        for path in sorted((root / "download").rglob("*"))
        if path.is_file()
    }
    write_json(manifest, {"size": wanted, "digest": digest(sums), "files": len(sums)})
    return digest(sums)


def draw_annotated_images(root: Path, size: DigitsSize) -> None:
    """Draw the images of the training annotations, which only questions of the training splits show.

    Args:
        root: folder of a data set that is complete.
        size: its size and seed.
    """
    scenes = range(min(_BASELINE_SCENES, size.num_train_images))
    with worker_pool(_WORKERS) as workers:
        list(workers.map(partial(_draw_annotated_images, root, size.seed), scenes, chunksize=50))


def num_scenes(size: DigitsSize) -> int:
    """Return the number of scenes in a data set of this size."""
    return size.num_train_images + sum(_shares(size.num_val_images).values())


def _shares(num_val_images: int) -> dict[str, int]:
    """Divide the validation images evenly among the families."""
    return {family: max(1, num_val_images // len(FAMILIES)) for family in FAMILIES}


def _training_scene(seed: int, index: int) -> tuple[Scene, np.random.Generator]:
    rng = scene_rng(seed, "train", index)
    return sample_scene(rng, "train"), rng


def _make_training_scene(root: Path, seed: int, turns: int, index: int) -> Instruction:
    """Draw one training scene, save its image, and return its conversation."""
    scene, rng = _training_scene(seed, index)
    image = f"coco/train2017/{index:012d}.jpg"
    _save(scene, root / INSTRUCTION_IMAGES / image)
    num_boxes = max(1, round(0.4 * turns))
    pairs = conversation(scene, rng, num_questions=max(1, turns - num_boxes - 2), num_boxes=num_boxes)
    messages = [text for pair in pairs for text in pair]
    return Instruction(f"digits-{index:06d}", image, (f"<image>\n{messages[0]}", *messages[1:]))


def _training_examples(seed: int, index: int) -> dict[str, list[Example]]:
    scene, rng = _training_scene(seed, index)
    return {family: list(scene_examples(family, "train", scene, index, rng)) for family in FAMILIES}


def _draw_annotated_images(root: Path, seed: int, index: int) -> None:
    scene, _ = _training_scene(seed, index)
    examples = [example for of_family in _training_examples(seed, index).values() for example in of_family]
    for image in dict.fromkeys(example.image for example in examples):
        if not (root / image).is_file():
            _save(scene, root / image)


def _make_validation_scene(root: Path, seed: int, family: str, index: int) -> list[Example]:
    """Draw one validation scene of a family, save its image, and return its examples."""
    rng = scene_rng(seed, "val", FAMILIES.index(family) * 1_000_000 + index)
    scene = sample_scene(rng, "val")
    examples = list(scene_examples(family, "val", scene, index, rng))
    for image in dict.fromkeys(example.image for example in examples):
        _save(scene, root / image)
    return examples


def _save(scene: Scene, path: Path) -> None:
    with atomic_path(path) as temporary:
        render(scene).save(temporary, format="JPEG", quality=_JPEG_QUALITY)


def _write_families(download: Path, train: dict[str, list[Example]], val: dict[str, list[Example]]) -> None:
    for examples, year in ((train["vqa-v2"], "train2014"), (val["vqa-v2"], "val2014")):
        folder = download / "vqa-v2"
        write_vqa(folder / f"v2_{year}_questions.json", folder / f"v2_{year}_annotations.json", examples)
    write_pope(download / "pope", [*train["pope"], *val["pope"]])
    write_tallyqa(download / "tally-qa" / "train.json", "download/tally-qa", train["tally-qa"])
    write_tallyqa(download / "tally-qa" / "test.json", "download/tally-qa", val["tally-qa"])
    for name, authors in (("refcoco", "unc"), ("refcoco+", "unc"), ("refcocog", "umd")):
        folder = download / "refcoco" / name
        examples = list(_of_set(name, [*train["refcoco"], *val["refcoco"]]))
        write_refer(folder / f"refs({authors}).p", folder / "instances.json", examples)
    for part, name in ((train, "train"), (val, "val")):
        path = download / "ocid-ref" / f"{name}_expressions.json"
        write_ocid(path, "download/ocid-ref/OCID-dataset", part["ocid-ref"])


def _of_set(name: str, examples: list[Example]) -> Iterator[Example]:
    return (example for example in examples if example.example_id.startswith(f"{name}/"))
