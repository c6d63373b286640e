"""Two finished runs of one study with everything in its place, so that each thing can be broken alone."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from eyeswap.backbones import catalog
from eyeswap.backbones.state import state_digest
from eyeswap.data.formats import Example
from eyeswap.data.formats.boxes import format_box
from eyeswap.evaluation import get_benchmark
from eyeswap.evaluation.baselines import ANY_KIND, TrivialBaseline
from eyeswap.evaluation.benchmark import Benchmark
from eyeswap.evaluation.generate import Generation, Request
from eyeswap.evaluation.predictions import CONTENT, SCHEMA, questions_digest
from eyeswap.evaluation.runner import Question, answer
from eyeswap.files import digest, sha256_of, write_json
from eyeswap.recipe import Recipe
from eyeswap.results.scores import write_scores
from eyeswap.runs.environment import environment
from eyeswap.runs.seal import write_seal
from eyeswap.training.step import learning_rate
from eyeswap.vlm.connector import build_connector

RECIPE = Recipe.model_validate({"data": "digits", "llm": "digits-llm"})
ARMS = {"maxvit": "digits-maxvit", "vmamba": "digits-vmamba"}
NUM_STEPS, LLM_WIDTH, SEED = 30, 16, 7
NUM_EXAMPLES = 24


class NoImages:
    """Images of which nothing is looked at."""

    def read(self, images: Sequence[str]) -> tuple[list[None], dict[str, str]]:
        return [None] * len(images), {}


class Told:
    """A generator that says what it is told, question by question."""

    def __init__(self, answers: Iterable[Generation]) -> None:
        self.answers = iter(answers)

    def answer(self, tokens: Sequence[None], requests: Sequence[Sequence[Request]]) -> list[list[Generation]]:
        return [[next(self.answers) for _ in about_one] for about_one in requests]


def examples_of(name: str) -> list[Example]:
    """Return the questions of a benchmark, four about an image."""
    made = []
    for number in range(NUM_EXAMPLES):
        corner = number % 5 / 10
        truth: Any = (corner, corner, corner + 0.3, corner + 0.4) if name == "refcoco" else ("yes", "no")[number % 2]
        image = f"images/{number // 4}.png"
        subset = "val" if name == "refcoco" else ("adversarial", "popular", "random")[number % 3]
        made.append(Example(f"{name}-{number}", image, image, subset, name, f"thing {number}?", truth, size=(40, 30)))
    return made


def write_sound(folder: Path) -> Path:
    """Write both runs; return the study's folder."""
    study = folder / "sound"
    recipe = RECIPE.model_dump(mode="json")
    arms = {arm: {"backbone": backbone, "connector": None} for arm, backbone in ARMS.items()}
    content = {"recipe": recipe, "arms": arms, "may_differ": ["backbone"], "benchmarks": ["pope", "refcoco"]}
    write_json(study / "study.json", content)
    for arm, backbone in ARMS.items():
        run = study / arm / f"seed-{SEED}"
        write_json(run / "spec.json", record_of(arm, backbone))
        write_json(run / "environment.json", environment().model_dump(mode="json"))
        write_json(run / "model" / "config.json", {"text_config": {"hidden_size": LLM_WIDTH}})
        rows = [
            {"step": step, "loss": 2.0, "lr": learning_rate(step, NUM_STEPS, RECIPE.lr, RECIPE.warmup_fraction)}
            for step in range(NUM_STEPS)
        ]
        (run / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        index = {name: write_predictions(run, get_benchmark(name), arm) for name in ("pope", "refcoco")}
        write_json(run / "predictions" / "benchmarks.json", index)
        write_scores(run)
        write_seal(run)
    return study


def record_of(arm: str, backbone: str) -> dict[str, Any]:
    """Return what an arm's run records."""
    entry = catalog.entry(backbone)
    size = entry.measured()
    connector = build_connector(RECIPE.connector, size.width, LLM_WIDTH, SEED)
    return {
        "study": "sound",
        "arm": arm,
        "seed": SEED,
        "recipe": RECIPE.model_dump(mode="json"),
        "recipe_digest": RECIPE.digest,
        "data_digest": digest("data"),
        "order_digest": digest("order"),
        "num_steps": NUM_STEPS,
        "left_out": {"records": 0, "images": 0},
        "train_prompt": "USER: the region: {expression} ASSISTANT:",
        "test_prompt": "USER: the region: {expression} ASSISTANT:",
        "train_box_frame": "original",
        "test_box_frame": "original",
        "benchmarks": ["pope", "refcoco"],
        "may_differ": ["backbone"],
        "image_digests": {"training": "sampled:1", "pope": "sampled:2", "refcoco": "sampled:2"},
        "llm": {"name": RECIPE.llm, "sha256": digest("llm")},
        "connector": {"kind": RECIPE.connector, "init_digest": state_digest(connector.state_dict())},
        "backbone": {
            "name": backbone,
            "family": entry.family,
            "weights_sha256": sha256_of(entry.weights.packaged_path()),
            "embed_dim": size.width,
            "num_parameters": size.parameters,
            "token_grid": size.tokens,
            "tap": entry.model_dump(mode="json")["tap"],
            "frozen_mode": "eval",
            "geometry": entry.geometry.canonical(),
        },
        "observed": {"matched": [], "llm_positions": 512},
    }


def write_predictions(run: Path, benchmark: Benchmark, arm: str) -> dict[str, Any]:
    """Write an arm's answers to a benchmark, every third of them wrong; return what ``benchmarks.json`` has of it."""
    examples, is_boxed = examples_of(benchmark.name), benchmark.answer_kind == "box"
    text = format_box((0, 0, 0.5, 0.5)) if is_boxed else "Yes"
    baseline = TrivialBaseline(benchmark, f"constant box {text}" if is_boxed else "always yes", {ANY_KIND: text})
    questions, told = [], []
    for number, example in enumerate(examples):
        is_right = (number + len(arm)) % 3 > 0
        wanted: Any = example.truth if is_right else (0.6, 0.6, 0.9, 0.9)
        chances = (0.9, 0.1) if is_right == (example.truth == "yes") else (0.2, 0.8)
        latency = (number + list(ARMS).index(arm) / 10) / 1e3
        told.append(Generation(format_box(wanted) if is_boxed else "", None if is_boxed else chances, 1, latency))
        questions.append(Question(benchmark, example, baseline, Request(f"USER: {example.question} ASSISTANT:")))
    rows = answer(Told(told), NoImages(), questions)
    path = run / "predictions" / f"{benchmark.name}.parquet"
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), path)
    frame = "original" if is_boxed else None
    asked = (tuple(row[column] for column in CONTENT) for row in rows)
    return {
        "group": benchmark.group,
        "title": benchmark.title,
        "metric": benchmark.metric,
        "baseline": baseline.title,
        "num_examples": len(rows),
        "benchmark": benchmark.origin,
        "mode": benchmark.mode,
        "questions_digest": questions_digest(benchmark.mode, frame, asked),
        **({"iou_threshold": benchmark.iou_threshold, "box_frame": frame} if is_boxed else {}),
    }
