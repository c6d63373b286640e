"""The layout of official files below a data root, and reading all examples of a family.

The folders are those of the published evaluation suite, ``<root>/download/<family>/...``. That suite renames some
downloads; their names inside the archives are accepted too.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from eyeswap.data.formats import (
    POPE_SPLITS,
    Example,
    read_gqa,
    read_ocid,
    read_pope,
    read_refer,
    read_tallyqa,
    read_textvqa,
    read_vizwiz,
    read_vqa,
    refer_splits,
)
from eyeswap.errors import MissingFileError

Split = Literal["eval", "train"]
REFER_AUTHORS = {"refcoco": "unc", "refcoco+": "unc", "refcocog": "umd"}
_YEARS: dict[Split, str] = {"eval": "val2014", "train": "train2014"}


def find(root: Path, family: str, *names: str) -> Path:
    """Return the first of the accepted names that exists below ``<root>/download/<family>``, else the first name."""
    paths = [root / "download" / family / name for name in names]
    return next((path for path in paths if path.exists()), paths[0])


def need(root: Path, family: str, *names: str) -> Path:
    """Return the file among the accepted names that exists.

    Raises:
        MissingFileError: if none does; the message says how to find out where to get it.
    """
    path = find(root, family, *names)
    if not path.exists():
        raise MissingFileError(
            f"{path}: no such file; `eyeswap data prepare {family} --root {root}` prints where to get it"
        )
    return path


def _images(root: Path, family: str, *names: str) -> str:
    return find(root, family, *names).relative_to(root).as_posix()


def read_vqa_v2_files(root: Path, split: Split) -> list[Example]:
    """Read VQA v2: questions and annotations of ``val2014`` or ``train2014``."""
    year = _YEARS[split]
    questions = need(root, "vqa-v2", f"v2_{year}_questions.json", f"v2_OpenEnded_mscoco_{year}_questions.json")
    annotations = need(root, "vqa-v2", f"v2_{year}_annotations.json", f"v2_mscoco_{year}_annotations.json")
    return read_vqa(questions, annotations, _images(root, "vqa-v2", f"images_{year}", year), year)


def read_gqa_files(root: Path, split: Split) -> list[Example]:
    """Read GQA's balanced questions, and the lists of valid answers if they are beside them."""
    name = "testdev" if split == "eval" else "train"
    questions = need(root, "gqa", f"{name}_balanced_questions.json")
    choices = find(root, "gqa", f"{name}_choices.json")
    return read_gqa(questions, "download/gqa/images", name, choices if choices.is_file() else None)


def read_vizwiz_files(root: Path, split: Split) -> list[Example]:
    """Read VizWiz ``val.json`` or ``train.json``."""
    name = "val" if split == "eval" else "train"
    annotations = need(root, "vizwiz", f"{name}.json", f"Annotations/{name}.json")
    return read_vizwiz(annotations, _images(root, "vizwiz", f"{name}_images", name))


def read_text_vqa_files(root: Path, split: Split, with_ocr: bool = False) -> list[Example]:
    """Read TextVQA; ``with_ocr`` keeps the OCR tokens in the questions."""
    name = "val" if split == "eval" else "train"
    annotations = need(root, "text-vqa", f"TextVQA_0.5.1_{name}.json")
    ocr = find(root, "text-vqa", f"textvqa_{name}_v051_ocr.jsonl", f"llava_textvqa_{name}_v051_ocr.jsonl")
    images = _images(root, "text-vqa", "train_val_images", "train_images")
    return read_textvqa(annotations, ocr if ocr.is_file() else None, images, with_ocr)


def read_pope_files(root: Path, split: Split) -> list[Example]:
    """Read the three files; POPE has no training split, but the embedded data set has ``coco_pope_train.json``."""
    names = POPE_SPLITS if split == "eval" else ("train",)
    folder = {need(root, "pope", f"coco_pope_{name}.json").parent for name in names}.pop()
    images = ("val_images", "val2014") if split == "eval" else ("train_images",)
    return read_pope(folder, _images(root, "pope", *images), names)


def read_tally_qa_files(root: Path, split: Split) -> list[Example]:
    """Read TallyQA ``test.json`` or ``train.json``."""
    name = "test" if split == "eval" else "train"
    return read_tallyqa(need(root, "tally-qa", f"{name}.json"), "download/tally-qa", name)


def read_refcoco_files(root: Path, split: str, names: Iterable[str] = REFER_AUTHORS) -> list[Example]:
    """Read some of the three RefCOCO sets in the study's order; slim sets are drawn from all of them together.

    Args:
        root: the data root.
        split: ``val``, ``train``, ``testA``, ``testB`` or ``test``; ``eval`` means ``val``, and ``google-val`` is
            ``val`` of Google's split, ``refs(google).p``.
        names: sets to read.

    Raises:
        DataError: naming file and row; a MissingFileError if a set has no example of that split.
    """
    examples = []
    author, _, part = split.rpartition("-")
    for name in names:
        refs = need(root, "refcoco", f"{name}/refs({author or REFER_AUTHORS[name]}).p")
        instances = need(root, "refcoco", f"{name}/instances.json")
        images = _images(root, "refcoco", "train2014")
        of_set = read_refer(refs, instances, images, name, "val" if part == "eval" else part)
        if not of_set:
            available = ", ".join(refer_splits(refs))
            raise MissingFileError(f"{refs}: has no expression of split {part!r}, only {available}")
        examples += of_set
    return examples


def refcoco_splits(root: Path) -> dict[str, int]:
    """Return the number of sentences of each split of each RefCOCO set, keyed ``refcoco testA`` and so on.

    Google's split of RefCOCOg is included if its file exists, as ``refcocog google-val``.
    """
    counts = {
        name: refer_splits(need(root, "refcoco", f"{name}/refs({REFER_AUTHORS[name]}).p")) for name in REFER_AUTHORS
    }
    google = find(root, "refcoco", "refcocog/refs(google).p")
    if google.is_file():
        counts["refcocog"] |= {f"google-{split}": count for split, count in refer_splits(google).items()}
    return {f"{name} {split}": count for name, splits in counts.items() for split, count in splits.items()}


def read_ocid_ref_files(root: Path, split: str) -> list[Example]:
    """Read ``<split>_expressions.json`` of ``val``, ``train`` or ``test``; ``eval`` means ``val``."""
    expressions = need(root, "ocid-ref", f"{'val' if split == 'eval' else split}_expressions.json")
    return read_ocid(expressions, _images(root, "ocid-ref", "OCID-dataset"))
