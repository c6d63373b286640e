"""Evaluate one run on its benchmarks: ask, score, and keep every prediction.

Each benchmark's predictions go to ``predictions/<benchmark>.parquet``, one row an example, written whole under a
temporary name and renamed. A benchmark whose file is there is skipped. Beside each prediction stands the score
of the trivial baseline on the same example.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from eyeswap.data.formats import Example
from eyeswap.data.tokens import TokenCache
from eyeswap.evaluation.baselines import TrivialBaseline
from eyeswap.evaluation.benchmark import Benchmark, Outcome
from eyeswap.evaluation.generate import Generation, Generator, Request
from eyeswap.evaluation.predictions import SCHEMA, predictions_path
from eyeswap.files import atomic_path, write_json
from eyeswap.vlm.model import VisionLanguageModel


def evaluate(
    model: VisionLanguageModel,
    cache: TokenCache,
    asked: Sequence[tuple[Benchmark, Sequence[Example], TrivialBaseline]],
    run_dir: Path,
    advance: Callable[[str, int], None] = lambda name, count: None,
) -> None:
    """Write the predictions of every benchmark that has none yet.

    Args:
        model: the trained VLM.
        cache: visual tokens of all images asked about.
        asked: benchmarks with their examples and their trivial baselines.
        run_dir: the run's folder.
        advance: called with the benchmark's name and the number of examples answered since the last call.
    """
    index = {
        benchmark.name: {
            "group": benchmark.group,
            "title": benchmark.title,
            "metric": benchmark.metric,
            "baseline": baseline.title,
        }
        for benchmark, _, baseline in asked
    }
    write_json(run_dir / "predictions" / "benchmarks.json", index)
    generator = Generator(model.eval())
    for benchmark, examples, baseline in asked:
        path = predictions_path(run_dir, benchmark.name)
        if path.is_file():
            advance(benchmark.name, len(examples))
            continue
        rows = []
        for example, prompt, generation in answer_examples(generator, cache, benchmark, examples):
            answer = generation.text if generation.probabilities is None else generation.probabilities
            outcome = benchmark.score(example, answer)
            rows.append(_row(outcome, prompt, generation, baseline.score(example)))
            advance(benchmark.name, 1)
        order = {example.example_id: position for position, example in enumerate(examples)}
        rows.sort(key=lambda row: order[row["example_id"]])
        with atomic_path(path) as temporary:
            pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), temporary)


def answer_examples(
    generator: Generator, cache: TokenCache, benchmark: Benchmark, examples: Sequence[Example]
) -> Iterator[tuple[Example, str, Generation]]:
    """Yield each example with its prompt and answer, image after image."""
    by_image: dict[str, list[Example]] = {}
    for example in examples:
        by_image.setdefault(example.image, []).append(example)
    images = list(by_image)
    for start in range(0, len(images), generator.images_per_batch):
        batch = images[start : start + generator.images_per_batch]
        requests = [
            [
                Request(
                    image,
                    generator.model.prompt.question(benchmark.user_message(example)),
                    benchmark.choices,
                    benchmark.max_new_tokens,
                )
                for example in by_image[image]
            ]
            for image in batch
        ]
        answers = generator.answer(cache[batch], requests)
        for image, asked, generations in zip(batch, requests, answers, strict=True):
            for example, request, generation in zip(by_image[image], asked, generations, strict=True):
                yield example, request.prompt, generation


def _row(outcome: Outcome, prompt: str, generation: Generation, baseline_score: float) -> dict[str, Any]:
    example = outcome.example
    return {
        "example_id": example.example_id,
        "image": example.image,
        "image_id": example.image_id,
        "subset": example.subset,
        "kind": example.kind,
        "question": example.question,
        "prompt": prompt,
        "answer": outcome.answer,
        "truth": json.dumps(example.truth, ensure_ascii=False),
        "score": outcome.score,
        "box": None if outcome.box is None else list(outcome.box),
        "iou": outcome.iou,
        "invalid": outcome.invalid,
        "margin": outcome.margin,
        "num_tokens": generation.num_tokens,
        "latency_s": generation.latency_s,
        "baseline_score": baseline_score,
        "probabilities": generation.probabilities,
    }
