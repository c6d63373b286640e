"""The catalogue of instruction data: what each set is, where it is published, what it must hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from eyeswap.data.official.families import COCO_IMAGES, GQA_IMAGES, TEXTVQA_IMAGES, VISUAL_GENOME, Source
from eyeswap.data.preflight import Preflight


@dataclass(frozen=True)
class TrainingSet:
    """An instruction file and its folders of images.

    Attributes:
        name: folder below ``<root>/download``; image names of the file are relative to it.
        title: for tables.
        about: what it is, one line.
        licence: of texts and images, as published.
        sources: what must lie on disk; the instruction file first.
        counts: records as published, by the first folder of their image; ``""`` are those without image.
    """

    name: str
    title: str
    about: str
    licence: str
    sources: tuple[Source, ...]
    counts: Mapping[str, int]

    @property
    def image_folder(self) -> str:
        """The folder that image names are relative to, relative to the data root."""
        return f"download/{self.name}"

    def instruction_file(self, root: Path) -> Path:
        """Return where the instruction file lies below a data root."""
        return root / self.image_folder / self.sources[0].names[0]

    def complaints(self, found: Preflight) -> list[str]:
        """Return where the records of the file differ from the published ones, one line each."""
        have: Counter[str] = Counter({"": found.num_text_only})
        for source in found.sources:
            have[source.folder.removeprefix(f"{self.image_folder}/").partition("/")[0]] += source.num_records
        lines = []
        for part in dict.fromkeys([*self.counts, *have]):
            count, published = have[part], self.counts.get(part, 0)
            if count != published:
                lines.append(f"{count:,} records {f'of {part}' if part else 'without image'}, published {published:,}")
        return lines


_OCR_VQA = (
    "run the download script at the address (Google Drive) and save every image as .jpg under its own name; many no "
    "longer exist, and `skip_missing: true` leaves their records out"
)

_SETS = (
    TrainingSet(
        "llava-v1.5-instruct", "LLaVA-1.5 instruction mix",
        "665,298 conversations: about images of COCO, GQA, OCR-VQA, TextVQA and Visual Genome, or in text alone",
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
TRAINING_SETS: dict[str, TrainingSet] = {one.name: one for one in _SETS}
