"""The catalogue of data sets: training sets, lookup of all sets by name, and which of their files are on disk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from eyeswap.data.official.families import (
    COCO_IMAGES,
    FAMILIES,
    GQA_IMAGES,
    TEXTVQA_IMAGES,
    VISUAL_GENOME,
    Family,
    Source,
)
from eyeswap.data.official.layout import find
from eyeswap.data.preflight import Preflight
from eyeswap.errors import SpecError, nearest


@dataclass(frozen=True)
class TrainingSet:
    """An instruction file and its folders of images.

    Attributes:
        name: folder below ``<root>/download``; image paths in the file are relative to it.
        title: name in tables.
        about: description in one line.
        licence: of texts and images, as published.
        sources: required files and folders, the instruction file first.
        counts: published number of records by the first folder of their image; ``""`` for those without image.
    """

    name: str
    title: str
    about: str
    licence: str
    sources: tuple[Source, ...]
    counts: Mapping[str, int]

    @property
    def image_folder(self) -> str:
        """The folder to which image paths are relative, itself relative to the data root."""
        return f"download/{self.name}"

    def instruction_file(self, root: Path) -> Path:
        """Return the path of the instruction file below a data root."""
        return root / self.image_folder / self.sources[0].names[0]

    def complaints(self, preflight: Preflight) -> list[str]:
        """Return the differences between the records of the file and the published ones, one line each."""
        have: Counter[str] = Counter({"": preflight.num_text_only})
        for source in preflight.sources:
            have[source.folder.removeprefix(f"{self.image_folder}/").partition("/")[0]] += source.num_records
        lines = []
        for part in dict.fromkeys([*self.counts, *have]):
            count, published = have[part], self.counts.get(part, 0)
            if count != published:
                lines.append(f"{count:,} records {f'of {part}' if part else 'without image'}, published {published:,}")
        return lines


_OCR_VQA = (
    "run the download script at the address (Google Drive) and save every image as .jpg under its own name; many no "
    "longer exist, and `skip_missing: true` leaves out their records"
)

_SETS = (
    TrainingSet(
        "llava-v1.5-instruct", "LLaVA-1.5 instruction mix",
        "665,298 conversations: about images of COCO, GQA, OCR-VQA, TextVQA and Visual Genome, or text only",
        "texts CC BY 4.0; images by the terms of their own sets",
        (
            Source(
                ("llava_v1_5_mix665k.json",),
                "https://huggingface.co/datasets/liuhaotian/LLaVA-Instruct-150K/resolve/main/llava_v1_5_mix665k.json",
                "1.03 GB",
            ),
            Source(("coco/train2017",), f"{COCO_IMAGES}/train2017.zip", "18 GB", is_images=True, member="train2017"),
            Source(("gqa/images",), GQA_IMAGES, "20.3 GB", is_images=True, member="images"),
            Source(
                ("ocr_vqa/images",),
                "https://drive.google.com/drive/folders/1_GYPY5UkUy7HIcR0zq3ZCFgeZN7BAfm_?usp=sharing",
                is_images=True, manual=_OCR_VQA,
            ),
            Source(("textvqa/train_images",), TEXTVQA_IMAGES, "6.6 GB", is_images=True, member="train_images"),
            Source(("vg/VG_100K",), f"{VISUAL_GENOME}/images.zip", "9.2 GB", is_images=True, member="VG_100K"),
            Source(("vg/VG_100K_2",), f"{VISUAL_GENOME}/images2.zip", "5.5 GB", is_images=True, member="VG_100K_2"),
        ),
        {"coco": 364_100, "gqa": 72_140, "ocr_vqa": 80_000, "textvqa": 21_953, "vg": 86_417, "": 40_688},
    ),
)  # fmt: skip
TRAINING_SETS: dict[str, TrainingSet] = {training_set.name: training_set for training_set in _SETS}

DataSet = Family | TrainingSet


@dataclass(frozen=True)
class FoundFile:
    """A source on disk.

    Attributes:
        source: the source.
        path: relative to the root.
        exists: whether it is on disk.
        num_bytes: size of a file; None for a folder of images, or if not yet read.
        sha256: digest of a file; None as for ``num_bytes``.
        version: which known version it is, if any.
    """

    source: Source
    path: str
    exists: bool
    num_bytes: int | None = None
    sha256: str | None = None
    version: str | None = None


def sets_named(name: str) -> list[DataSet]:
    """Return the data sets with a name: that of a set, of one of its benchmarks, or ``all``.

    Raises:
        SpecError: if there is none with that name.
    """
    sets: list[DataSet] = [family for family in FAMILIES.values() if name in ("all", family.name, *family.benchmarks)]
    sets += [training_set for training_set in TRAINING_SETS.values() if name in ("all", training_set.name)]
    if not sets:
        benchmarks = (benchmark for family in FAMILIES.values() for benchmark in family.benchmarks)
        names = dict.fromkeys(["all", *FAMILIES, *benchmarks, *TRAINING_SETS])
        raise SpecError(f"unknown data set {name!r}. {nearest(name, names)}")
    return sets


def look(data_set: DataSet, root: Path) -> list[FoundFile]:
    """Return for each source of a data set whether it is on disk, without reading files."""
    return [_look_for(source, data_set.name, root) for source in data_set.sources]


def _look_for(source: Source, folder: str, root: Path) -> FoundFile:
    path = find(root, folder, *source.names)
    exists = path.is_dir() if source.is_images else path.is_file()
    return FoundFile(source, path.relative_to(root).as_posix(), exists)
