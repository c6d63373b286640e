"""The kinds of input that are fuzzed: valid ones to begin with, and who reads them."""

from __future__ import annotations

import io
import json
import pickle
import random
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from tests.fuzz.image_files import write_images
from tests.fuzz.mutate import mutate_bytes, mutate_value, odd_text
from tests.official_files import write_official_files, write_predictions
from tests.written_runs import TRUE, write_run

from eyeswap.adaptation.data import open_data
from eyeswap.adaptation.samples import make_sample
from eyeswap.audit.audit import audit
from eyeswap.data.digits.dense import write_ade20k, write_coco
from eyeswap.data.formats.boxes import find_box
from eyeswap.data.instruction import read_instructions
from eyeswap.evaluation import BENCHMARKS
from eyeswap.evaluation.boxes import parse_box
from eyeswap.evaluation.counting import TallyQA
from eyeswap.evaluation.custom import load_custom, read_number
from eyeswap.evaluation.hallucination import say_yes_or_no
from eyeswap.evaluation.predictions import read_predictions
from eyeswap.evaluation.text import normalise_answer, normalise_textvqa
from eyeswap.evaluation.vqa import is_unanswerable, score_textvqa, score_vizwiz, score_vqa_official, score_vqa_study
from eyeswap.files import read_safetensors, read_torch_weights, write_safetensors
from eyeswap.geometry import ImageGeometry
from eyeswap.images import image_size, open_image, open_picture, traits
from eyeswap.pickles import read_array_pickle, read_plain_pickle
from eyeswap.planning.spec import load_study
from eyeswap.results.archive import import_study
from eyeswap.results.run import load_runs
from eyeswap.results.scores import write_scores
from eyeswap.results.verify import problems_of
from eyeswap.runs.folder import RunFolder
from eyeswap.runs.seal import write_seal

Case = tuple[Callable[[], Any], int]
STUDY = {
    "question": "Which one sees better?",
    "recipe": {"data": "digits", "llm": "digits-llm", "lr": 1e-3, "global_batch": 32, "precision": "fp32"},
    "arms": {"vit": "digits-vit", "vmamba": {"backbone": "digits-vmamba", "connector": "linear"}},
    "may_differ": ["backbone", "connector"],
    "benchmarks": ["pope", "refcoco"],
    "seeds": [7, 8],
    "execution": {"workers": 0},
}
OWN_ROWS: dict[str, dict[str, Any]] = {
    "exact-match": {"answer": "Stop"},
    "vqa-accuracy": {"answers": ["stop"] * 3 + ["halt"] * 7},
    "number": {"answer": 3},
    "yes-no": {"answer": "yes"},
    "multiple-choice": {"choices": ["go", "stop", "yield"], "answer": "stop"},
    "accuracy-iou-0.5": {"box": [0, 0, 50, 25], "width": 100, "height": 50},
}
RECORDS = [
    {
        "id": str(number),
        **({"image": f"im/{number}.jpg"} if number % 3 else {}),
        "conversations": [
            {"from": "human", "value": ("<image>\n" if number % 3 else "") + "What is it?"},
            {"from": "gpt", "value": "A dog."},
        ],
    }
    for number in range(6)
]


@dataclass(frozen=True)
class Kind:
    """One kind of input.

    Attributes:
        name: as the command line names it.
        prepare: writes valid files into a folder, once.
        case: makes one case there from a generator: who reads it, and its size in bytes.
    """

    name: str
    prepare: Callable[[Path], None]
    case: Callable[[Path, random.Random], Case]


def _nothing(folder: Path) -> None:
    """Prepare nothing."""


def _written(path: Path, content: bytes) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return len(content)


def _text(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _study(folder: Path, generator: random.Random) -> Case:
    path = folder / "study.yaml"
    text = json.dumps(mutate_value(STUDY, generator)) if generator.random() < 0.7 else yaml.safe_dump(STUDY)
    content = _text(text) if generator.random() < 0.5 else mutate_bytes(_text(text), generator)
    size = _written(path, content)
    return lambda: load_study(path), size


def _answers(folder: Path, generator: random.Random) -> Case:
    words = ["[0.12, 0.3, 0.45, 0.6]", "Yes, there is.", "No", "two dogs", "12", "unanswerable", "don't", "B. red"]
    text = generator.choice(words) + odd_text(generator) if generator.random() < 0.5 else odd_text(generator)
    if generator.random() < 0.3:
        text = (text * generator.choice((2, 50, 2000)))[:300_000]
    return lambda: _read_answer(text), len(text)


def _read_answer(text: str) -> None:
    for read in (parse_box, find_box, say_yes_or_no, read_number, normalise_answer, normalise_textvqa, is_unanswerable):
        read(text)
    truth = ("two", "2", "a dog") * 3 + ("yes",)
    for score in (score_vqa_study, score_vqa_official, score_textvqa, score_vizwiz):
        value = score(text, truth)
        assert value is None or 0 <= value <= 1, (score, value)
    assert isinstance(BENCHMARKS["tallyqa"], TallyQA)


def _records(folder: Path, generator: random.Random) -> Case:
    path = folder / "records.json"
    text = json.dumps(mutate_value(RECORDS, generator), indent=generator.choice((None, 1)))
    content = _text(text) if generator.random() < 0.7 else mutate_bytes(_text(text), generator)
    size = _written(path, content)
    return lambda: read_instructions(path, "im"), size


def _prepare_annotations(folder: Path) -> None:
    write_official_files(folder / "data")


def _annotations(folder: Path, generator: random.Random) -> Case:
    name = generator.choice(list(BENCHMARKS))
    root = folder / "data"
    suffixes = (".json", ".jsonl", ".p", ".txt")
    files = sorted(path for path in root.rglob("*") if path.suffix in suffixes and path.is_file())
    path = generator.choice(files)
    whole = path.read_bytes()
    size = _written(path, _mutated_annotations(path, whole, generator))

    def read() -> None:
        try:
            for benchmark in (BENCHMARKS[name], *BENCHMARKS.values()):
                for example in benchmark.examples(root):
                    assert ".." not in Path(example.image).parts
        finally:
            path.write_bytes(whole)

    return read, size


def _mutated_annotations(path: Path, whole: bytes, generator: random.Random) -> bytes:
    if generator.random() < 0.4:
        return mutate_bytes(whole, generator)
    if path.suffix == ".p":
        return pickle.dumps(mutate_value(pickle.loads(whole), generator), protocol=2)
    try:
        value = json.loads(whole)
    except ValueError:
        lines = whole.decode().splitlines()
        row = generator.randrange(len(lines))
        try:
            lines[row] = json.dumps(mutate_value(json.loads(lines[row]), generator))
        except ValueError:
            lines[row] = odd_text(generator)
        return _text("\n".join(lines))
    return json.dumps(mutate_value(value, generator)).encode()


def _prepare_safetensors(folder: Path) -> None:
    tensors = {"a.weight": torch.zeros(3, 4), "b": torch.ones(5, dtype=torch.float16)}
    write_safetensors(folder / "whole.safetensors", tensors, {"format": "pt"})
    torch.save({"model": tensors}, folder / "whole.pth")


def _safetensors(folder: Path, generator: random.Random) -> Case:
    suffix = generator.choice(("safetensors", "pth"))
    path = folder / f"case.{suffix}"
    size = _written(path, mutate_bytes((folder / f"whole.{suffix}").read_bytes(), generator))
    return lambda: read_safetensors(path) if suffix == "safetensors" else read_torch_weights(path), size


def _prepare_run(folder: Path) -> None:
    write_official_files(folder / "data")
    write_predictions(folder / "run", folder / "data", ["pope", "refcoco"])


def _parquet(folder: Path, generator: random.Random) -> Case:
    run = RunFolder(folder / "run")
    path = run.predictions_of("pope")
    whole = path.read_bytes()
    size = _written(path, mutate_bytes(whole, generator))

    def read() -> None:
        try:
            read_predictions(folder / "run", "pope").to_pylist()
        finally:
            path.write_bytes(whole)

    return read, size


def _archive(folder: Path, generator: random.Random) -> Case:
    packed = io.BytesIO()
    files = {"study.json": {"name": "s", "arms": {"vit": "x"}}, "vit/seed-7/spec.json": {"arm": "vit", "seed": 7}}
    names = [
        *files,
        odd_text(generator).replace("\x00", "")[:200] or "x",
        "../x",
        "vit/seed-7/predictions/pope.parquet",
    ]
    manifest = {"format": 1, "study": "s", "files": {name: {"bytes": 2, "sha256": "0" * 64} for name in names}}
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as packer:
        for name in generator.sample(names, generator.randint(0, len(names))):
            content = json.dumps(mutate_value(files.get(name, {"a": 1}), generator)).encode()
            packer.writestr(
                name.encode("utf-8", "replace").decode(), (content * generator.choice((1, 1, 20_000)))[:3_000_000]
            )
        packer.writestr("manifest.json", json.dumps(mutate_value(manifest, generator)))
    content = packed.getvalue()
    path = folder / "case.eyeswap.zip"
    size = _written(path, mutate_bytes(content, generator) if generator.random() < 0.5 else content)
    return lambda: import_study(path, folder / "runs"), size


def _prepare_images(folder: Path) -> None:
    write_images(folder)


def _images(folder: Path, generator: random.Random) -> Case:
    source = generator.choice(sorted(folder.glob("whole*")))
    path = folder / "case.image"
    size = _written(path, mutate_bytes(source.read_bytes(), generator))
    read = generator.choice((open_image, open_picture))
    return lambda: (image_size(path), traits(path), read(path)), size


def _pickles(folder: Path, generator: random.Random) -> Case:
    refs = [{"ref_id": 1, "sentences": [{"sent": "the red one", "sent_id": 3}], "split": "val"}] * 2
    arrays = {"model": {"w": np.arange(6.0).reshape(2, 3)}}
    plain = generator.random() < 0.5
    protocol = generator.randrange(pickle.HIGHEST_PROTOCOL + 1)
    path = folder / "case.p"
    size = _written(path, mutate_bytes(pickle.dumps(refs if plain else arrays, protocol), generator))
    return lambda: (read_plain_pickle if plain else read_array_pickle)(path), size


def _own_benchmark(folder: Path, generator: random.Random) -> Case:
    metric = generator.choice(list(OWN_ROWS))
    header = {"metric": metric, "data": "rows.jsonl", "images": "photos", "title": "signs"}
    row = {"id": 1, "image": "a.jpg", "question": "What does it say?", **OWN_ROWS[metric]}
    rows = [json.dumps(mutate_value(row, generator)) for _ in range(generator.randint(1, 3))]
    content = _text("\n".join(rows))
    size = _written(folder / "rows.jsonl", content if generator.random() < 0.7 else mutate_bytes(content, generator))
    path = folder / "signs.yaml"
    text = json.dumps(mutate_value(header, generator) if generator.random() < 0.3 else header)
    size += _written(path, _text(text))

    def read() -> None:
        benchmark = load_custom(path)
        for example in benchmark.examples(folder):
            benchmark.user_message(example)
            if benchmark.answer_kind != "choice":
                benchmark.score(example, "[0.1, 0.2, 0.3, 0.4]")

    return read, size


def _prepare_records(folder: Path) -> None:
    write_run(folder / "study", "vit", TRUE)
    write_run(folder / "study", "vmamba", TRUE)
    for arm in ("vit", "vmamba"):
        write_scores(folder / "study" / arm / "seed-7")
        write_seal(folder / "study" / arm / "seed-7")
    arms = {"vit": {"backbone": "digits-vit"}, "vmamba": {"backbone": "digits-vmamba"}}
    (folder / "study" / "study.json").write_text(json.dumps(STUDY | {"name": "study", "arms": arms}), encoding="utf-8")


def _run_records(folder: Path, generator: random.Random) -> Case:
    study = folder / "study"
    run = RunFolder(study / "vit" / "seed-7")
    files = (run.record, run.environment, run.scores, run.seal, run.training_log, run.benchmarks, study / "study.json")
    path = generator.choice(files)
    whole = path.read_bytes()
    if path == run.training_log or generator.random() < 0.3:
        content = mutate_bytes(whole, generator)
    else:
        content = _text(json.dumps(mutate_value(json.loads(whole), generator)))
    size = _written(path, content)

    def read() -> None:
        try:
            list(problems_of(run.path))
            runs = load_runs([study])
            audit(runs)
            for one in runs:
                assert one.scores.averages is not None
        finally:
            path.write_bytes(whole)

    return read, size


def _prepare_dense(folder: Path) -> None:
    for write, objective in ((write_coco, "detection"), (write_ade20k, "segmentation")):
        write(folder / objective, {"train": 1, "val": 1}, 0, lambda count: None)


def _dense(folder: Path, generator: random.Random) -> Case:
    objective, name = generator.choice(
        (
            ("detection", "annotations/instances_val2017.json"),
            ("segmentation", "annotations/validation/00000001.png"),
            ("segmentation", "objectInfo150.txt"),
        )
    )
    path = folder / objective / name
    whole = path.read_bytes()
    if path.suffix == ".json" and generator.random() < 0.7:
        content = _text(json.dumps(mutate_value(json.loads(whole), generator)))
    else:
        content = mutate_bytes(whole, generator)
    size = _written(path, content)

    def read() -> None:
        try:
            for image in open_data(str(folder / objective), objective).val:
                make_sample(image, ImageGeometry(canvas=(32, 32)))
        finally:
            path.write_bytes(whole)

    return read, size


KINDS: Sequence[Kind] = (
    Kind("study", _nothing, _study),
    Kind("answers", _nothing, _answers),
    Kind("records", _nothing, _records),
    Kind("annotations", _prepare_annotations, _annotations),
    Kind("safetensors", _prepare_safetensors, _safetensors),
    Kind("parquet", _prepare_run, _parquet),
    Kind("archive", _nothing, _archive),
    Kind("images", _prepare_images, _images),
    Kind("pickles", _nothing, _pickles),
    Kind("own-benchmark", _nothing, _own_benchmark),
    Kind("run-records", _prepare_records, _run_records),
    Kind("dense", _prepare_dense, _dense),
)
