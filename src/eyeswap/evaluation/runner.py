"""Evaluation of one run on its benchmarks: ask, score, and save predictions batch by batch.

Questions of all benchmarks are grouped by image, so that each image is encoded and prefilled once. A batch is a fixed
set of images, so an evaluation that was killed, or continues with another number of processes, asks the same batches
and gets the same answers. If an image cannot be read or an example cannot be scored, the reason is recorded and the
answer counts as wrong. Each prediction is recorded with the score of the trivial baseline.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from eyeswap.data.formats import Example
from eyeswap.errors import DataError, RunError
from eyeswap.evaluation.baselines import TrivialBaseline
from eyeswap.evaluation.benchmark import Benchmark, Outcome
from eyeswap.evaluation.frames import TEST_BOX_FRAMES
from eyeswap.evaluation.generate import Generation, Generator, Request
from eyeswap.evaluation.grounding import BoxOutcome, Grounding
from eyeswap.evaluation.predictions import (
    Content,
    Key,
    iou_column,
    kept_keys,
    merge_parts,
    questions_digest,
    take_back,
    write_part,
)
from eyeswap.evaluation.stopping import stop_rule
from eyeswap.processes import Ranks
from eyeswap.runs.folder import RunFolder
from eyeswap.runs.privacy import without_paths
from eyeswap.runs.record import AskedBenchmark, read_index, write_index
from eyeswap.versions import code_version
from eyeswap.vlm.model import VisionLanguageModel

Asked = tuple[Benchmark, Sequence[Example], TrivialBaseline]

_BUCKETS_PER_BATCH = 4  # batches hold so many buckets, which lets questions of similar length be grouped


class Images(Protocol):
    """A source of visual tokens: the token cache, or the backbone itself."""

    def read(self, images: Sequence[str]) -> tuple[list[Tensor], dict[str, str]]:
        """Return the tokens ``[N, D]`` of each readable image, and by image the reason why others are not."""
        ...


@dataclass(frozen=True)
class Question:
    """One example with the request that asks for its answer."""

    benchmark: Benchmark
    example: Example
    baseline: TrivialBaseline
    request: Request

    @property
    def key(self) -> Key:
        """The key of its row."""
        return self.benchmark.name, self.example.example_id


def evaluate(
    model: VisionLanguageModel,
    images: Images,
    asked: Sequence[Asked],
    run_dir: Path,
    advance: Callable[[str, int], None] = lambda name, count: None,
    batch: int = 128,
    workers: Ranks | None = None,
    *,
    subset: int | None = None,
    renew: bool = False,
) -> None:
    """Write the predictions of all benchmarks that have none yet.

    Args:
        model: the trained VLM.
        images: source of the visual tokens.
        asked: benchmarks with their examples and trivial baselines.
        run_dir: the run's folder.
        advance: called with the benchmark's name and the number of examples answered since the last call.
        batch: largest number of questions answered together.
        workers: the processes that share the work, all of which call this function; by default only this one.
        subset: number of examples per benchmark part, for the record; None if all are asked.
        renew: whether to replace answers to other questions of a benchmark that the folder contains; answers to
            questions that are asked again are kept.

    Raises:
        RunError: if the folder contains answers to other questions and ``renew`` is not set.
    """
    workers = workers or Ranks()
    questions = {benchmark.name: ask(model, benchmark, examples, baseline) for benchmark, examples, baseline in asked}
    if workers.is_first:
        _write_index(run_dir, asked, questions, subset, renew)
    workers.wait()  # until answers to other questions are withdrawn
    missing = {name: rows for name, rows in questions.items() if not RunFolder(run_dir).predictions_of(name).is_file()}
    kept = kept_keys(run_dir)
    todo = [
        [question for question in part if question.key not in kept]
        for part in batches([question for rows in missing.values() for question in rows], _BUCKETS_PER_BATCH * batch)
    ]
    workers.wait()  # until all processes know what is done
    left = Counter(question.benchmark.name for part in todo for question in part)
    for name, rows in questions.items():
        if len(rows) > left[name]:
            advance(name, len(rows) - left[name])
    generator = Generator(model.eval(), batch)
    parts, shown = [part for part in todo if part], 0
    for position, part in workers.draw(parts):
        write_part(run_dir, answer(generator, images, part))
        done = Counter(question.benchmark.name for part in parts[shown : position + 1] for question in part)
        for name, count in done.items():  # those between are other processes', which are about as far
            advance(name, count)
        shown = position + 1
    workers.wait()
    for name, count in Counter(question.benchmark.name for part in parts[shown:] for question in part).items():
        advance(name, count)
    if workers.is_first:
        merge_parts(run_dir, {name: [row.example.example_id for row in rows] for name, rows in missing.items()})
    workers.wait()


def ask(
    model: VisionLanguageModel, benchmark: Benchmark, examples: Sequence[Example], baseline: TrivialBaseline
) -> list[Question]:
    """Return the questions of a benchmark, worded for a model."""
    rule = stop_rule(benchmark, examples)
    return [
        Question(
            benchmark,
            example,
            baseline,
            Request(
                model.prompt.question(benchmark.user_message(example)),
                benchmark.choices,
                benchmark.max_new_tokens,
                rule,
            ),
        )
        for example in examples
    ]


def batches(questions: Iterable[Question], most: int) -> list[list[Question]]:
    """Group questions by image, in order of first appearance, and split them into batches of at most ``most``."""
    by_image: dict[str, list[Question]] = {}
    for question in questions:
        by_image.setdefault(question.example.image, []).append(question)
    parts: list[list[Question]] = []
    for of_image in by_image.values():
        if not parts or len(parts[-1]) + len(of_image) > most:
            parts.append([])
        parts[-1] += of_image
    return parts


def answer(generator: Generator, images: Images, questions: Sequence[Question]) -> list[dict[str, Any]]:
    """Answer and score the questions of one batch; return their rows."""
    by_image: dict[str, list[Question]] = {}
    for question in questions:
        by_image.setdefault(question.example.image, []).append(question)
    tokens, unreadable = images.read(list(by_image))
    readable = [of_image for image, of_image in by_image.items() if image not in unreadable]
    generations = generator.answer(tokens, [[question.request for question in of_image] for of_image in readable])
    answers = {
        question.key: generation
        for of_image, generations_of_image in zip(readable, generations, strict=True)
        for question, generation in zip(of_image, generations_of_image, strict=True)
    }
    return [_row(question, answers.get(question.key), unreadable.get(question.example.image)) for question in questions]


def _row(question: Question, generation: Generation | None, error: str | None) -> dict[str, Any]:
    example = question.example
    outcome = Outcome(example, "", 0.0)
    if generation is not None:
        outcome = Outcome(example, generation.text, 0.0)
        produced = generation.text if generation.probabilities is None else generation.probabilities
        try:
            outcome = question.benchmark.score(example, produced)
        except DataError as problem:
            error = str(problem)
    try:
        baseline_score = question.baseline.score(example)
    except DataError:  # the ground truth cannot be scored; the row's error says so
        baseline_score = 0.0
    located = outcome if isinstance(outcome, BoxOutcome) else BoxOutcome(example, "", 0.0)
    width, height = example.size if isinstance(outcome, BoxOutcome) and example.size else (None, None)
    return {
        "benchmark": question.benchmark.name,
        "example_id": example.example_id,
        "image": example.image,
        "image_id": example.image_id,
        "subset": example.subset,
        "kind": example.kind,
        "question": example.question,
        "prompt": question.request.prompt,
        "answer": outcome.answer,
        "truth": _truth(example),
        "details": json.dumps(dict(example.details), ensure_ascii=False),
        "score": outcome.score,
        "box": outcome.box,
        "iou": outcome.iou,
        "invalid": outcome.invalid,
        "margin": outcome.margin,
        "num_tokens": 0 if generation is None else generation.num_tokens,
        "latency_s": 0.0 if generation is None else generation.latency_s,
        "baseline_score": baseline_score,
        "probabilities": outcome.probabilities,
        "lenient_box": located.lenient_box,
        "lenient_iou": located.lenient_iou,
        **{iou_column(frame): located.overlaps.get(frame) for frame in TEST_BOX_FRAMES},
        "true_box_px": located.true_box_px,
        "image_width": width,
        "image_height": height,
        "error": without_paths(error),
    }


def _write_index(
    run_dir: Path,
    asked: Sequence[Asked],
    questions: Mapping[str, Sequence[Question]],
    subset: int | None,
    renew: bool,
) -> None:
    """Add the benchmarks to ``predictions/benchmarks.json``: what readers need, and what identifies the questions."""
    path = RunFolder(run_dir).benchmarks
    index = read_index(path) if path.is_file() else {}
    for benchmark, examples, baseline in asked:
        now = _entry(benchmark, examples, baseline, questions[benchmark.name], subset)
        before = index.get(benchmark.name, now)
        is_same = before.questions_digest in (None, now.questions_digest) and before.identity in (None, now.identity)
        if not (is_same or renew):
            raise RunError(
                f"{path.parent}: has answers to other questions of {benchmark.name} (data, subset, mode or box frame "
                f"differ); choose another folder, or delete this one"
            )
        is_scored_alike = _is_scored_alike(before, now)
        if renew and not (is_same and is_scored_alike):
            same = {_content(row) for row in questions[benchmark.name]} if is_scored_alike else set()
            take_back(run_dir, benchmark.name, same)
        index[benchmark.name] = now
    write_index(path, index)


def _entry(
    benchmark: Benchmark,
    examples: Sequence[Example],
    baseline: TrivialBaseline,
    questions: Sequence[Question],
    subset: int | None,
) -> AskedBenchmark:
    box_frame = benchmark.box_frame if isinstance(benchmark, Grounding) else None
    return AskedBenchmark(
        group=benchmark.group,
        title=benchmark.title,
        metric=benchmark.metric,
        baseline=baseline.title,
        num_examples=len(examples),
        benchmark=benchmark.origin,
        mode=benchmark.mode,
        questions_digest=questions_digest(benchmark.mode, box_frame, map(_content, questions)),
        iou_threshold=benchmark.iou_threshold if benchmark.answer_kind == "box" else None,
        identity=benchmark.identity,
        subset=subset,
        box_frame=box_frame,
        code_version=code_version(),
    )


def _content(question: Question) -> Content:
    """Return the columns `CONTENT` of a question."""
    example = question.example
    return example.example_id, example.image, question.request.prompt, _truth(example)


def _truth(example: Example) -> str:
    return json.dumps(example.truth, ensure_ascii=False)


def _is_scored_alike(before: AskedBenchmark, now: AskedBenchmark) -> bool:
    """Whether the recorded scores are what the same answers would score now."""
    if now.box_frame is not None and (before.identity is None or (before.subset is None) != (now.subset is None)):
        return False  # slim sets are scored against unrounded boxes
    fields = ("mode", "metric", "baseline", "iou_threshold", "box_frame", "identity")
    old, new = (entry.model_dump(include=set(fields)) for entry in (before, now))
    return all(old[name] == new[name] for name in fields if name in before.model_fields_set)
