"""Small files of every benchmark family in the official formats and folders, and runs that answer them at random."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from eyeswap.data.formats import (
    Example,
    normalise_box,
    write_gqa,
    write_ocid,
    write_pope,
    write_refer,
    write_tallyqa,
    write_textvqa,
    write_vizwiz,
    write_vqa,
)
from eyeswap.data.formats.boxes import format_box
from eyeswap.evaluation import Benchmark, get_benchmark
from eyeswap.evaluation.baselines import TrivialBaseline
from eyeswap.evaluation.predictions import merge_parts, write_part
from eyeswap.files import write_json

NUM_QUESTIONS = 60
TEN = ("a",) * 6 + ("b",) * 4
SIZE = (8, 6)


def _vqa_v2(n: int) -> Example:
    image_id = n // 3 + 1
    image = f"download/vqa-v2/images_val2014/COCO_val2014_{image_id:012d}.jpg"
    details = {"answer_type": "other", "question_type": "what"}
    return Example(str(500 + n), image, str(image_id), "val2014", "other", f"q{n}?", TEN, details=details)


def _gqa(n: int) -> Example:
    name = f"n{n // 3 + 1}"
    image = f"download/gqa/images/{name}.jpg"
    return Example(str(900 + n), image, name, "testdev", "query", f"q{n}", "dog", details={"entailed": ["901"]})


def _vizwiz(n: int) -> Example:
    image = f"download/vizwiz/val_images/VizWiz_val_{n:08d}.jpg"
    subset = ("answerable", "unanswerable")[n % 2]
    return Example(str(n), image, f"VizWiz_val_{n:08d}", subset, "other", f"q{n}", TEN)


def _text_vqa(n: int) -> Example:
    name = f"a{n // 3 + 1}"
    image, details = f"download/text-vqa/train_val_images/{name}.jpg", {"ocr": "X, Y" if n % 2 else ""}
    return Example(str(34_000 + n), image, name, "val", "text", f"q{n}", TEN, details=details)


def _pope(n: int) -> Example:
    split, name = ("adversarial", "popular", "random")[n // 20], f"COCO_val2014_{n // 3 + 1:012d}"
    image, label = f"download/pope/val_images/{name}.jpg", ("yes", "no")[n % 2]
    return Example(f"{split}/{n % 20 + 1}", image, name, split, "existence", f"q{n}", label)


def _tally_qa(n: int) -> Example:
    image_id, subset = str(n // 3 + 1), "complex" if n % 7 in (1, 4) else "simple"
    image = f"download/tally-qa/VG_100K/{image_id}.jpg"
    return Example(str(7000 + n), image, image_id, subset, "count", f"q{n}", n % 16)


def _refcoco(n: int, name: str, split: str) -> Example:
    ref_id = n // 2 + 1
    box = (ref_id % 4, 1.25, ref_id % 4 + 3.5, 5.0)
    image = f"download/refcoco/train2014/COCO_train2014_{ref_id:012d}.jpg"
    truth, example_id = normalise_box(box, SIZE), f"{name}/{ref_id}/{n}"
    return Example(example_id, image, str(ref_id), split, "expression", f"q{n}", truth, size=SIZE, box_px=box)


def _ocid_ref(n: int) -> Example:
    scene, subset = f"A/s{n // 3 + 1}.png", ("minimum", "medium", "maximum")[n % 3]
    box, size = (n, 10, n + 60, 200.5), (640, 480)
    image, truth = f"download/ocid-ref/OCID-dataset/{scene}", normalise_box(box, size)
    return Example(str(n + 3), image, scene, subset, "expression", f"q{n}", truth, size=size, box_px=box)


def write_official_files(root: Path) -> dict[str, list[Example]]:
    """Write every family below ``root`` with its images; return the examples of each in raw order."""
    numbers, make = range(NUM_QUESTIONS), {"vqa-v2": _vqa_v2, "gqa": _gqa, "vizwiz": _vizwiz, "text-vqa": _text_vqa}
    make |= {"pope": _pope, "tally-qa": _tally_qa, "ocid-ref": _ocid_ref}
    examples = {family: [one(n) for n in numbers] for family, one in make.items()}
    sets = {"refcoco": ("unc", "testA"), "refcoco+": ("unc", "testB"), "refcocog": ("umd", "test")}
    examples["refcoco"] = [_refcoco(n, name, "val") for name in sets for n in numbers]
    folder = root / "download"
    write_vqa(
        folder / "vqa-v2" / "v2_val2014_questions.json",
        folder / "vqa-v2" / "v2_val2014_annotations.json",
        examples["vqa-v2"],
    )
    write_gqa(folder / "gqa" / "testdev_balanced_questions.json", examples["gqa"])
    _add_programs(folder / "gqa" / "testdev_balanced_questions.json")
    write_vizwiz(folder / "vizwiz" / "val.json", examples["vizwiz"])
    write_textvqa(
        folder / "text-vqa" / "TextVQA_0.5.1_val.json",
        folder / "text-vqa" / "textvqa_val_v051_ocr.jsonl",
        examples["text-vqa"],
    )
    write_pope(folder / "pope", examples["pope"])
    write_tallyqa(folder / "tally-qa" / "test.json", "download/tally-qa", examples["tally-qa"])
    (folder / "tally-qa" / "VG_100K_2").mkdir()
    for name, (authors, split) in sets.items():
        own = [example for example in examples["refcoco"] if example.example_id.startswith(f"{name}/")]
        tests = [_refcoco(n, name, split) for n in range(NUM_QUESTIONS, NUM_QUESTIONS + 10)]
        own += tests
        _write_images(root, tests)
        write_refer(folder / "refcoco" / name / f"refs({authors}).p", folder / "refcoco" / name / "instances.json", own)
    write_ocid(folder / "ocid-ref" / "val_expressions.json", "download/ocid-ref/OCID-dataset", examples["ocid-ref"])
    for family in examples.values():
        _write_images(root, family)
    return examples


def _write_images(root: Path, examples: Sequence[Example]) -> None:
    for example in examples:
        path = root / example.image
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", example.size or SIZE).save(path)


def _add_programs(path: Path) -> None:
    """Give each GQA row the field that the published index copies and no score needs."""
    rows = json.loads(path.read_text())
    for question_id, row in rows.items():
        row["semanticStr"] = f"s {question_id}"
    path.write_text(json.dumps(rows))


def write_predictions(run: Path, root: Path, names: Sequence[str], seed: int = 0, keep: float = 1.0) -> None:
    """Write the predictions of a run that answers at random, about half of it right.

    Args:
        run: the run's folder.
        root: the data root.
        names: benchmarks.
        seed: of the answers.
        keep: share of examples answered; below 1 they stay in parts, as an unfinished evaluation leaves them.
    """
    generator = random.Random(seed)
    index, ids = {}, {}
    for name in names:
        benchmark = get_benchmark(name)
        examples = benchmark.examples(root)
        baseline = TrivialBaseline.of(benchmark, root)
        rows = [_row(benchmark, example, baseline, generator) for example in examples[: round(keep * len(examples))]]
        write_part(run, rows)
        ids[benchmark.name] = [row["example_id"] for row in rows]
        index[benchmark.name] = {
            "group": benchmark.group,
            "title": benchmark.title,
            "metric": benchmark.metric,
            "baseline": baseline.title,
            "num_examples": len(examples),
            "benchmark": benchmark.origin,
            "mode": benchmark.mode,
        }
    write_json(run / "predictions" / "benchmarks.json", index)
    if keep == 1:
        merge_parts(run, ids)


def _row(benchmark: Benchmark, example: Example, baseline: TrivialBaseline, generator: random.Random) -> dict[str, Any]:
    outcome = benchmark.score(example, _answer(benchmark, example, generator))
    return {
        "benchmark": benchmark.name,
        **{name: getattr(example, name) for name in ("example_id", "image", "image_id", "subset", "kind", "question")},
        "prompt": benchmark.user_message(example),
        "answer": outcome.answer,
        "truth": json.dumps(example.truth),
        "details": json.dumps(dict(example.details)),
        "score": outcome.score,
        "box": outcome.box,
        "iou": outcome.iou,
        "invalid": outcome.invalid,
        "margin": outcome.margin,
        "num_tokens": 1,
        "latency_s": 0.01,
        "baseline_score": baseline.score(example),
        "probabilities": outcome.probabilities,
        "error": None,
    }


def _answer(benchmark: Benchmark, example: Example, generator: random.Random) -> str | list[float]:
    right = generator.random() < 0.5
    if benchmark.choices:
        weights = [generator.random() for _ in benchmark.choices]
        if right and isinstance(example.truth, int):
            weights[example.truth] += 2
        return [weight / sum(weights) for weight in weights]
    if benchmark.answer_kind == "box":
        return format_box([float(value) for value in example.truth]) if right else generator.choice(["[0, 0, 1]", "?"])
    truth = example.truth[0] if isinstance(example.truth, tuple) else str(example.truth)
    return f"{truth}." if right else generator.choice(["B", "unanswerable", ""])
