"""The catalogue of benchmark families: description, files, where they are published, and expected counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from eyeswap.data.formats import POPE_SPLITS, Example
from eyeswap.data.official import layout
from eyeswap.data.official.layout import REFER_AUTHORS, Split


@dataclass(frozen=True)
class Source:
    """A file or folder that a family needs below ``<root>/download/<family>``.

    Attributes:
        names: accepted names, that of the published suite first.
        url: where it is published.
        size: of the download as stated by the publisher; empty if not stated.
        digests: known sha256 digests and the version of each, that of the url first.
        is_images: whether it is a folder of images.
        member: path in the archive behind the url, in whatever folder there; empty if the url is the file itself.
        manual: instructions for a person if the url is not a file; empty if it is.
    """

    names: tuple[str, ...]
    url: str
    size: str = ""
    digests: Mapping[str, str] = field(default_factory=dict)
    is_images: bool = False
    member: str = ""
    manual: str = ""


@dataclass(frozen=True)
class Family:
    """Benchmarks that share their files.

    Attributes:
        name: folder below ``<root>/download`` and ``<root>/datasets``.
        title: name in tables.
        benchmarks: names of its reported columns.
        about: description in one line.
        licence: of questions and images, as published.
        sources: required files and folders.
        counts: published number of examples of each part, one mapping per version; the part ``""`` is everything.
        num_images: published number of images, if stated.
        read_files: reads all examples of a split below a root, in file order.
        part: returns the part of the family that an example belongs to; slim sets are drawn from each part.
        splits: counts the examples of all splits, for files that contain several.
    """

    name: str
    title: str
    benchmarks: tuple[str, ...]
    about: str
    licence: str
    sources: tuple[Source, ...]
    counts: tuple[Mapping[str, int], ...]
    num_images: int | None
    read_files: Callable[[Path, Split], list[Example]]
    part: Callable[[Example], str] = lambda example: ""
    splits: Callable[[Path], dict[str, int]] = lambda root: {}

    def folder(self, root: Path) -> Path:
        """Return the folder of the raw files."""
        return root / "download" / self.name


COCO_IMAGES = "http://images.cocodataset.org/zips"
GQA_IMAGES = "https://downloads.cs.stanford.edu/nlp/data/gqa/images.zip"
TEXTVQA_IMAGES = "https://dl.fbaipublicfiles.com/textvqa/images/train_val_images.zip"
VISUAL_GENOME = "https://cs.stanford.edu/people/rak248/VG_100K_2"
_VQA = "https://s3.amazonaws.com/cvmlp/vqa/mscoco/vqa"
_POPE = "https://raw.githubusercontent.com/AoiDragon/POPE"
_POPE_PINNED, _POPE_CURRENT = "e3e39262c85a6a83f26cf5094022a782cb0df58d", "08d957b917e5a378a2f99d35b6293c536a66298b"
_POPE_DIGESTS = {
    "adversarial": (
        "1d8f0906a9b50c05640f6f23abfac97523be2a1bed28f7eadc63b811699b2d26",
        "420b3407db1fa9f1187a805dca41cb7b97fd91504e6c2179706188c107fb8ef8",
    ),
    "popular": (
        "5b16653023bf4f64d57eb0d168259de6627f5cde7538b85ebed3cc33034aa6cc",
        "72c1a8ad45d0c13514f5f22598261df41d3b533854d29682e924db50ed8aa753",
    ),
    "random": (
        "c16b65d2df6d70bb0814c8a4375833d39cdb09928fd936d3fc546491efa37f35",
        "ac25245170b975a5bdf9080b23fd431dfe6be458bc038259c1f4f09a6bef7994",
    ),
}


def _pope_source(split: str) -> Source:
    pinned, current = _POPE_DIGESTS[split]
    url = f"{_POPE}/{_POPE_PINNED}/output/coco/coco_pope_{split}.json"
    versions = {pinned: "the study's version", current: f"the version of 2025 ({_POPE_CURRENT[:8]})"}
    return Source((f"coco_pope_{split}.json",), url, "0.4 MB", versions)


_FAMILIES = (
    Family(
        "vqa-v2", "VQA v2", ("vqav2",),
        "open questions about COCO photographs, ten human answers each; validation set",
        "questions CC BY 4.0; COCO images by Flickr's terms",
        (
            Source(
                ("v2_val2014_questions.json", "v2_OpenEnded_mscoco_val2014_questions.json"),
                f"{_VQA}/v2_Questions_Val_mscoco.zip", member="v2_OpenEnded_mscoco_val2014_questions.json",
            ),
            Source(
                ("v2_val2014_annotations.json", "v2_mscoco_val2014_annotations.json"),
                f"{_VQA}/v2_Annotations_Val_mscoco.zip", member="v2_mscoco_val2014_annotations.json",
            ),
            Source(
                ("images_val2014", "val2014"), f"{COCO_IMAGES}/val2014.zip", "6 GB", is_images=True, member="val2014"
            ),
        ),
        ({"": 214_354},), 40_504, layout.read_vqa_v2_files,
    ),
    Family(
        "gqa", "GQA", ("gqa",),
        "compositional questions made from scene graphs; balanced test-dev set",
        "CC BY 4.0",
        (
            Source(
                ("testdev_balanced_questions.json",),
                "https://downloads.cs.stanford.edu/nlp/data/gqa/questions1.2.zip", "1.4 GB",
                member="testdev_balanced_questions.json",
            ),
            Source(("images",), GQA_IMAGES, "20.3 GB", is_images=True, member="images"),
        ),
        ({"": 12_578},), 398, layout.read_gqa_files,
    ),
    Family(
        "vizwiz", "VizWiz", ("vizwiz",),
        "questions that blind people asked about their photographs, some unanswerable; validation set",
        "CC BY 4.0",
        (
            Source(
                ("val.json", "Annotations/val.json"),
                "https://vizwiz.cs.colorado.edu/VizWiz_final/vqa_data/Annotations.zip", member="val.json",
            ),
            Source(
                ("val_images", "val"), "https://vizwiz.cs.colorado.edu/VizWiz_final/images/val.zip",
                is_images=True, member="val",
            ),
        ),
        ({"": 4_319},), 4_319, layout.read_vizwiz_files,
    ),
    Family(
        "text-vqa", "TextVQA", ("textvqa-ocr", "textvqa-pure"),
        "questions about text in photographs, asked with and without OCR tokens; validation set 0.5.1",
        "CC BY 4.0; images from Open Images, CC BY 2.0",
        (
            Source(
                ("TextVQA_0.5.1_val.json",), "https://dl.fbaipublicfiles.com/textvqa/data/TextVQA_0.5.1_val.json"
            ),
            Source(
                ("textvqa_val_v051_ocr.jsonl", "llava_textvqa_val_v051_ocr.jsonl"),
                "https://gist.githubusercontent.com/siddk/74a709cb5e292099bae3cbcec1d0ce8a/raw/"
                "74e367e79a23b1043eb469b36168945fbac01601/textvqa_val_v051_ocr.jsonl",
            ),
            Source(
                ("train_val_images", "train_images"), TEXTVQA_IMAGES, "6.6 GB",
                is_images=True, member="train_images",
            ),
        ),
        ({"": 5_000},), 3_166, lambda root, split: layout.read_text_vqa_files(root, split, with_ocr=True),
    ),
    Family(
        "pope", "POPE", ("pope",),
        "is there such an object in the COCO photograph? three splits, by how the absent objects were chosen",
        "MIT; COCO images by Flickr's terms",
        (
            *(_pope_source(split) for split in POPE_SPLITS),
            Source(("val_images", "val2014"), f"{COCO_IMAGES}/val2014.zip", "6 GB", is_images=True, member="val2014"),
        ),
        (dict.fromkeys(POPE_SPLITS, 3_000) | {"random": 2_910}, dict.fromkeys(POPE_SPLITS, 3_000)), 500,
        layout.read_pope_files, lambda example: example.subset,
    ),
    Family(
        "tally-qa", "TallyQA", ("tallyqa",),
        "how many? simple and complex counting questions; test set",
        "questions: none stated; Visual Genome images CC BY 4.0",
        (
            Source(
                ("test.json",), "https://github.com/manoja328/tallyqa/blob/master/tallyqa.zip?raw=true",
                member="test.json",
            ),
            Source(("VG_100K",), f"{VISUAL_GENOME}/images.zip", "9.2 GB", is_images=True, member="VG_100K"),
            Source(("VG_100K_2",), f"{VISUAL_GENOME}/images2.zip", "5.5 GB", is_images=True, member="VG_100K_2"),
        ),
        ({"simple": 22_991, "complex": 15_598},), None, layout.read_tally_qa_files, lambda example: example.subset,
    ),
    Family(
        "refcoco", "RefCOCO, RefCOCO+, RefCOCOg", ("refcoco", "refcoco+", "refcocog"),
        "find the object that an expression describes in a COCO photograph; validation sets (unc, unc, umd)",
        "annotations: none stated; COCO images by Flickr's terms",
        (
            *(
                Source(
                    (f"{name}/{file}",), f"https://bvisionweb1.cs.unc.edu/licheng/referit/data/{name}.zip",
                    member=file,
                )
                for name, authors in REFER_AUTHORS.items()
                for file in (f"refs({authors}).p", "instances.json")
            ),
            Source(("train2014",), f"{COCO_IMAGES}/train2014.zip", "13 GB", is_images=True, member="train2014"),
        ),
        ({"refcoco": 10_834, "refcoco+": 10_758, "refcocog": 4_896},), None,
        layout.read_refcoco_files, lambda example: example.example_id.partition("/")[0], layout.refcoco_splits,
    ),
    Family(
        "ocid-ref", "OCID-Ref", ("ocid-ref",),
        "find the object that an expression describes on a cluttered table; validation set, three levels of clutter",
        "MIT; images: see their page",
        (
            Source(
                ("val_expressions.json",),
                "https://drive.google.com/uc?export=download&id=19dD65ABxWiOLrpNea7mUW1RjJDBLo3Yp",
                manual="open the address in a browser (Google Drive asks before it sends the file)",
            ),
            Source(
                ("OCID-dataset",), "https://data.acin.tuwien.ac.at/index.php/s/g3EkcgcPioolQmJ/download",
                is_images=True, member="OCID-dataset",
            ),
        ),
        ({"": 18_342},), None, layout.read_ocid_ref_files, lambda example: example.subset,
    ),
)  # fmt: skip
FAMILIES: dict[str, Family] = {family.name: family for family in _FAMILIES}
