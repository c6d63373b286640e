"""Index files in the layout of the published evaluation suite, below ``<root>/datasets/<family>``.

For the full set and each slim size there is a ``metadata-*.json`` in the study's order, and copies of the official
files where that suite scores from copies. Boxes have their pixels, as in the study's copy of that suite, whose full
sets (``metadata-full-v2.json``) have the pixels of the rounded box. Existing files are kept. There is one deliberate
difference: the suite numbers POPE and RefCOCO by Python's salted hash, which changes in every preparation; here the
number is the position in the official files, so that two preparations can be joined.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from eyeswap.data.formats import Example, full_set_box
from eyeswap.data.formats.record import write_compact_json
from eyeswap.data.official.families import Family
from eyeswap.data.official.layout import need
from eyeswap.data.official.subsets import shuffled, subsample
from eyeswap.files import read_json

Numbered = tuple[int, Example]  # position in the official files, example

_NAMED_FULL = ("gqa", "pope", "tally-qa", "refcoco", "ocid-ref")  # others have metadata.json for the full set
_LOCATED = ("refcoco", "ocid-ref")
_SET_NAMES = {"refcoco": "RefCOCO", "refcoco+": "RefCOCO+", "refcocog": "RefCOCOg"}


def write_index(family: Family, root: Path, examples: Sequence[Example], sizes: Sequence[int]) -> dict[str, str]:
    """Write the index files that do not exist yet.

    Args:
        family: the family.
        root: the data root.
        examples: all examples of the family, in file order.
        sizes: sizes of the slim sets.

    Returns:
        By file name below ``<root>/datasets/<family>``: ``written``, ``kept``, or ``kept, other questions`` if an
        existing file has other questions.
    """
    folder = root / "datasets" / family.name
    raw = _RawRows(family.name, root)
    numbered = list(enumerate(examples))
    outcomes = {}
    for label, chosen in _sets(family, numbered, sizes):
        metadata = dict(map(raw.entry, chosen))
        files = {_metadata_name(family.name, label): metadata} | raw.official(label, chosen)
        if label == "full" and family.name in _LOCATED:
            files["metadata-full-v2.json"] = {key: _from_rounded(entry) for key, entry in metadata.items()}
        for name, content in files.items():
            outcomes[name] = _write(folder / name, content)
    return outcomes


def _sets(family: Family, numbered: Sequence[Numbered], sizes: Sequence[int]) -> Iterable[tuple[str, list[Numbered]]]:
    yield "full", shuffled(numbered)
    for size in sizes:
        yield f"slim-{size}", subsample(numbered, size, lambda item: family.part(item[1]))


def _metadata_name(family: str, label: str) -> str:
    return "metadata.json" if label == "full" and family not in _NAMED_FULL else f"metadata-{label}.json"


def _write(path: Path, content: Any) -> str:
    if not path.is_file():
        write_compact_json(path, content)
        return "written"
    if path.name.startswith("metadata") and _questions(read_json(path)) != _questions(content):
        return "kept, other questions"
    return "kept"


def _questions(metadata: Any) -> list[Any]:
    """Return the questions of an index in order, without ids, which the published suite draws anew."""
    entries = metadata.values() if isinstance(metadata, dict) else []
    wanted = ("question", "ref_expression", "img_path")
    return [[entry.get(key) for key in wanted] for entry in entries if isinstance(entry, dict)]


class _RawRows:
    """The official rows of a family, with fields that scoring does not need."""

    def __init__(self, family: str, root: Path) -> None:
        self.family = family
        self.content: Any = None
        self.questions: Any = None
        if family == "vqa-v2":
            names = ("v2_val2014_annotations.json", "v2_mscoco_val2014_annotations.json")
            self.content = read_json(need(root, family, *names))
            names = ("v2_val2014_questions.json", "v2_OpenEnded_mscoco_val2014_questions.json")
            self.questions = read_json(need(root, family, *names))
        elif family == "gqa":
            self.content = read_json(need(root, family, "testdev_balanced_questions.json"))
        elif family == "vizwiz":
            self.content = read_json(need(root, family, "val.json", "Annotations/val.json"))
        elif family == "text-vqa":
            self.content = read_json(need(root, family, "TextVQA_0.5.1_val.json"))

    def entry(self, item: Numbered) -> tuple[str, dict[str, Any]]:
        """Return the key and the index entry of an example."""
        make: dict[str, Callable[[Numbered], dict[str, Any]]] = {
            "vqa-v2": self._vqa_v2,
            "gqa": self._gqa,
            "vizwiz": self._vizwiz,
            "text-vqa": lambda item: _asking(item) | {"answers": list(_tuple(item[1]))},
            "pope": _pope,
            "tally-qa": lambda item: _asking(item) | {"answer": item[1].truth, "split": item[1].subset},
            "refcoco": _refcoco,
            "ocid-ref": _ocid_ref,
        }
        entry = make[self.family](item)
        return str(entry.get("question_id", entry.get("example_id"))), entry

    def official(self, label: str, chosen: Sequence[Numbered]) -> dict[str, Any]:
        """Return copies of the official files, reduced to the chosen examples."""
        if self.family == "vqa-v2":
            ids = {int(example.raw_id) for _, example in chosen}
            return {
                f"questions-vqa-v2-{label}.json": _cut(self.questions, "questions", ids),
                f"annotations-vqa-v2-{label}.json": _cut(self.content, "annotations", ids),
            }
        if self.family == "gqa":
            return {f"annotations-gqa-{label}.json": {e.example_id: self.content[e.example_id] for _, e in chosen}}
        if self.family == "vizwiz":
            ending = "" if label == "full" else f"-{label}"
            return {
                f"{kind}-vizwiz{ending}.json": {str(number): self.content[number][field] for number, _ in chosen}
                for kind, field in (("questions", "question"), ("annotations", "answers"))
            }
        if self.family == "text-vqa":
            rows = {
                example.raw_id: self.content["data"][number] | {"question": example.question}
                for number, example in chosen
            }
            return {f"annotations-textvqa-{label}.json": rows}
        return {}

    def _vqa_v2(self, item: Numbered) -> dict[str, Any]:
        row = self.content["annotations"][item[0]]
        return _asking(item) | {
            "answer": row.get("multiple_choice_answer"),
            "question_type": row.get("question_type"),
            "answer_type": row.get("answer_type"),
            "all_answers": list(_tuple(item[1])),
        }

    def _gqa(self, item: Numbered) -> dict[str, Any]:
        row = self.content[item[1].example_id]
        numbers = {name: [int(text) for text in row.get(name) or []] for name in ("entailed", "equivalent")}
        texts = {name: row.get(name) for name in ("fullAnswer", "semanticStr")}
        return _asking(item) | {"answer": item[1].truth} | texts | numbers

    def _vizwiz(self, item: Numbered) -> dict[str, Any]:
        row = self.content[item[0]]
        return _asking(item) | {"answers": [row["answers"]], "answerable": int(row["answerable"])}


def _asking(item: Numbered) -> dict[str, Any]:
    number, example = item
    identifier = int(example.raw_id) if example.raw_id.isdecimal() else number
    return {"question_id": identifier, "question": example.question, "img_path": example.image}


def _pope(item: Numbered) -> dict[str, Any]:
    number, example = item
    fields = {"answer": example.truth, "split": example.subset, "split_question_id": int(example.raw_id)}
    return _asking(item) | {"question_id": number} | fields


def _refcoco(item: Numbered) -> dict[str, Any]:
    number, example = item
    name, ref_id, sent_id = example.example_id.split("/")
    return _located(number, example) | {
        "refer_dataset": _SET_NAMES[name],
        "split": "val",
        "ref_id": int(ref_id),
        "sent_id": int(sent_id),
    }


def _ocid_ref(item: Numbered) -> dict[str, Any]:
    number, example = item
    identifier = int(example.example_id) if example.example_id.isdecimal() else number
    clutter = f"{example.subset.capitalize()} Clutter"
    return _located(identifier, example) | {"clutter_split": clutter, "split": "val"}


def _located(identifier: int, example: Example) -> dict[str, Any]:
    return {
        "example_id": identifier,
        "ref_expression": example.question,
        "img_path": example.image,
        "bbox": list(_tuple(example)),
        **_pixels(example),
    }


def _pixels(example: Example) -> dict[str, Any]:
    if example.box_px is None or example.size is None:
        return {}
    width, height = example.size
    return {"bbox_xyxy": [float(value) for value in example.box_px], "image_width": width, "image_height": height}


def _from_rounded(entry: dict[str, Any]) -> dict[str, Any]:
    """Return an entry with the pixels of its rounded box."""
    size = (entry["image_width"], entry["image_height"])
    return entry | {"bbox_xyxy": list(full_set_box(entry["bbox"], size))}


def _tuple(example: Example) -> tuple[Any, ...]:
    return example.truth if isinstance(example.truth, tuple) else (example.truth,)


def _cut(content: Any, key: str, ids: set[int]) -> Any:
    """Return a shallow copy with only the rows of the given questions, in file order."""
    return content | {key: [row for row in content[key] if int(row["question_id"]) in ids]}
