"""Evaluate a run, or any saved VLM, on whatever benchmarks are asked for; a study evaluates its runs by the same path.

Apart from a study the result is a folder that reads like a run: ``predictions/``, ``scores.json`` and the run's record
with what the evaluation changed, so that `eyeswap score`, `compare` and `audit` take it as one. Unless told otherwise
it lies beside the run's model, in ``evaluations/<data>-<subset>-<mode>``; ``-blanked`` or ``-shuffled`` follows where
images are not shown as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from eyeswap.audit.observed import canvas_of
from eyeswap.backbones.weights import LoadedBackbone
from eyeswap.data.formats import Example
from eyeswap.data.official.layout import Split
from eyeswap.data.official.subsets import subsample
from eyeswap.errors import DataError, RunError, SpecError
from eyeswap.evaluation import get_benchmark
from eyeswap.evaluation.ask import model_folder
from eyeswap.evaluation.baselines import TrivialBaseline
from eyeswap.evaluation.benchmark import Benchmark, Mode
from eyeswap.evaluation.frames import View
from eyeswap.evaluation.grounding import asked_in_frame
from eyeswap.evaluation.probes import BlankedImages, ImagesShown, ShuffledImages, shuffle
from eyeswap.evaluation.runner import Asked, Images, evaluate
from eyeswap.files import read_json, write_json
from eyeswap.geometry import ImageGeometry
from eyeswap.processes import Ranks
from eyeswap.progress import Progress, Task
from eyeswap.recipe import TestBoxFrame
from eyeswap.results.scores import write_scores
from eyeswap.runs.environment import environment
from eyeswap.runs.folder import RunFolder
from eyeswap.runs.record import RunRecord, StudyRecord
from eyeswap.runs.recorded import read_record, write_record
from eyeswap.tokens.cache import ImageEncoder, StoredImages, TokenCache, shared_token_folder
from eyeswap.vlm.model import VisionLanguageModel
from eyeswap.vlm.processor import VisionLanguageProcessor
from eyeswap.vlm.prompt import Prompt
from eyeswap.vlm.prompt_check import check_choices

SLIM = 1024  # the published suite's slim sets


class Settings(BaseModel):
    """What decides an evaluation's numbers, the model aside.

    Attributes:
        data: root of the official folders.
        subset: ``full``, or the number of examples of each benchmark part.
        split: ``eval``, the split that the study reports, or ``train``.
        mode: ``study`` or ``official``.
        box_frame: frame in which boxes are scored; None for that of the run's study, and outside of a study for the
            frame that the model was trained on.
        precision: arithmetic of the LLM; ``auto`` is bf16 on a GPU, as published, and fp32 on a CPU.
        images: ``as-is``; or ``blanked`` or ``shuffled``, to see what the image is worth (`eyeswap.evaluation.probes`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: str
    subset: int | Literal["full"] = "full"
    split: Split = "eval"
    mode: Mode = "study"
    box_frame: TestBoxFrame | None = None
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    images: ImagesShown = "as-is"

    @property
    def name(self) -> str:
        """A folder name that says most of it."""
        parts = [Path(self.data).resolve().name, "" if self.split == "eval" else self.split, self.subset, self.mode]
        shown = "" if self.images == "as-is" else self.images
        return "-".join(str(part) for part in [*parts, self.box_frame, shown] if part)


def parse_subset(text: str) -> int | Literal["full"]:
    """Read ``slim``, ``full`` or a number.

    Raises:
        SpecError: if it is none of these.
    """
    if text == "full":
        return "full"
    if text == "slim":
        return SLIM
    if not (text.isascii() and text.isdecimal() and 0 < int(text) < 10**9):
        raise SpecError(f"--subset {text}: write slim ({SLIM} examples of each part), a number, or full")
    return int(text)


def study_settings(run: Path) -> tuple[str | None, int | Literal["full"], list[str]]:
    """Return what a run's study asks: data root, subset and benchmarks; None, full and nothing outside of a study."""
    record = record_of(run)
    if record is None:
        return None, "full", []
    folder = (record.recipe or {}).get("data", {}).get("folder")
    study_dir = RunFolder(run if RunFolder(run).is_of_a_study else run.parent).study
    subset = read_record(study_dir.study, StudyRecord).subset if study_dir.study.is_file() else None
    return folder or str(study_dir.data), subset or "full", list(record.benchmarks or ())


def evaluation_settings(
    run: Path,
    benchmarks: Sequence[str] = (),
    *,
    data: Path | None = None,
    subset: int | str | None = None,
    **others: Any,
) -> tuple[list[str], Settings]:
    """Return what a run is asked and how: what is given, and for the rest what its study says.

    Args:
        run: a run's folder, or that of a saved VLM.
        benchmarks: names, or YAML files of own ones.
        data: root of the official folders.
        subset: see `parse_subset`.
        **others: further fields of `Settings`; None and empty text stand for the default.

    Raises:
        SpecError: if there is no such folder or setting, or the run belongs to no study and something is missing.
    """
    if not run.is_dir():
        raise SpecError(f"{run}: no such folder; name a run, such as runs/quickstart/vit/seed-7, or a saved VLM")
    root, study_subset, study_benchmarks = study_settings(run)
    names = list(benchmarks) or study_benchmarks
    if not names or (data is None and root is None):
        raise SpecError(f"{run}: belongs to no study; name --benchmarks and --data")
    given = {key: value for key, value in others.items() if value not in (None, "")}
    chosen = study_subset if subset in (None, "") else parse_subset(str(subset))
    try:
        return names, Settings.model_validate({"data": str(data or root), "subset": chosen, **given})
    except ValidationError as problem:
        first = problem.errors()[0]
        raise SpecError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}, got {first['input']!r}") from None


def record_of(run: Path) -> RunRecord | None:
    """Return the record of the run that a folder is, or that the model in it belongs to; None for other models."""
    for files in (RunFolder(run), RunFolder(run.parent)):
        if files.is_begun and files.is_trained:
            return read_record(files.record, RunRecord)
    return None


def read_examples(names: Sequence[str], settings: Settings) -> Iterator[tuple[Benchmark, list[Example]]]:
    """Yield each benchmark with the examples that are asked.

    Raises:
        SpecError: if a benchmark does not exist.
        DataError: naming file and row.
    """
    root = Path(settings.data)
    for name in names:
        benchmark = get_benchmark(name, settings.mode)
        if settings.subset == "full":
            examples = benchmark.examples(root, settings.split)
        elif settings.split == "eval":
            examples = benchmark.slim(root, settings.subset)
        else:
            examples = subsample(benchmark.examples(root, settings.split), settings.subset, benchmark.slim_part)
        if not examples:
            raise DataError(f"{root}: {name} has no example there")
        yield benchmark, examples


def show_prompts(run: Path, names: Sequence[str], settings: Settings, count: int) -> list[dict[str, Any]]:
    """Return the first ``count`` prompts of each benchmark as the model gets them; no weights are loaded.

    Raises:
        RunError: if there is no trained model.
        DataError: naming file and row.
    """
    processor = VisionLanguageProcessor.from_pretrained(model_folder(run))
    prompt: Prompt = processor.prompt
    return [
        {
            "benchmark": benchmark.name,
            "example_id": example.example_id,
            "image": example.image,
            "visual_tokens": processor.num_visual_tokens,
            "prompt": prompt.question(benchmark.user_message(example)),
            "choices": list(benchmark.choices),
            "max_new_tokens": 0 if benchmark.choices else benchmark.max_new_tokens,
        }
        for benchmark, examples in read_examples(names, settings)
        for example in examples[:count]
    ]


def evaluate_run(
    run: Path,
    names: Sequence[str],
    settings: Settings,
    board: Progress,
    out: Path | None = None,
    batch: int = 128,
    workers: Ranks | None = None,
) -> Path:
    """Evaluate; whatever was answered before an interruption is not asked again.

    Args:
        run: a run's folder, or that of a saved VLM.
        names: benchmarks, or YAML files of own ones.
        settings: which examples, and how they are read and scored.
        board: where progress is shown.
        out: folder of the result; beside the model by default.
        batch: most questions answered together.
        workers: the processes that share the work.

    Returns:
        The folder of the result, with ``scores.json``.

    Raises:
        RunError: if there is no trained model, or the folder holds another evaluation.
        SpecError: if a benchmark does not exist.
        DataError: naming file and row.
    """
    workers, folder = workers or Ranks(), model_folder(run)
    out = out or RunFolder(run).evaluation_folder(settings.name).path
    root = Path(settings.data)
    processor = VisionLanguageProcessor.from_pretrained(folder)
    found = list(read_examples(names, settings))
    check_choices(processor.tokenizer, processor.prompt, (benchmark.choices for benchmark, _ in found))
    asked: list[Asked] = [(benchmark, some, TrivialBaseline.of(benchmark, root)) for benchmark, some in found]
    model = load_model(folder, settings, workers)
    frame = settings.box_frame or _box_frame(run, model)
    loaded = replace(model.backbone, geometry=model.processor.image_geometry)
    if workers.is_first:
        _write_records(out, run, settings, frame, is_half=_is_half(settings, workers))
        _write_spec(out, run, settings, frame, asked, loaded.geometry)
    workers.wait()
    task = board.task(f"{run}: benchmarks", sum(len(examples) for _, examples, _ in asked))
    shown_in = settings.model_copy(update={"box_frame": frame})
    ask_and_score(model, loaded, asked, out, shown_in, task, batch, workers)
    return out


def load_model(folder: Path, settings: Settings, workers: Ranks) -> VisionLanguageModel:
    """Load a trained VLM in the arithmetic that an evaluation asks for.

    Raises:
        CheckpointError: if it is damaged.
    """
    dtype = torch.bfloat16 if _is_half(settings, workers) else torch.float32
    model: VisionLanguageModel = VisionLanguageModel.load(folder, dtype=dtype).to(workers.device)
    return model


def _is_half(settings: Settings, workers: Ranks) -> bool:
    return settings.precision == "bf16" or (settings.precision == "auto" and workers.device.type == "cuda")


def _box_frame(run: Path, model: VisionLanguageModel) -> TestBoxFrame:
    """Return the frame that a run's study scores boxes in; outside of a study, the one that the model answers in."""
    record = record_of(run)
    return cast("TestBoxFrame", (record and record.test_box_frame) or model.config.box_frame)


def ask_and_score(
    model: VisionLanguageModel,
    loaded: LoadedBackbone,
    asked: Sequence[Asked],
    out: Path,
    settings: Settings,
    task: Task,
    batch: int = 128,
    workers: Ranks | None = None,
    *,
    cache: TokenCache | None = None,
    renew: bool = False,
) -> None:
    """Put questions to a VLM, keep its answers and score them: every evaluation comes this way.

    Args:
        model: the trained VLM.
        loaded: its backbone, with the geometry of its images.
        asked: benchmarks with examples and trivial baselines.
        out: folder that gets ``predictions/`` and ``scores.json``.
        settings: how images are shown, and in which frame boxes are scored.
        task: shows how many questions are answered.
        batch: most questions answered together.
        workers: the processes that share the work.
        cache: the visual tokens of all images; without it the backbone makes them.
        renew: see `eyeswap.evaluation.runner.evaluate`.

    Raises:
        RunError: if the folder holds answers to other questions, unless they are renewed.
        DataError: naming file and row.
    """
    workers, root = workers or Ranks(), Path(settings.data)
    view = View.of(loaded.geometry, loaded.name, loaded.family)
    frame: TestBoxFrame = settings.box_frame or "original"
    asked = asked_in_frame(asked, root, frame, view, exact_truth=settings.subset != "full")
    for part in [[one] for one in asked] if settings.images == "shuffled" else [asked]:
        evaluate(
            model,
            cache or _images(loaded, settings, part, workers),
            part,
            out,
            lambda name, count: task.advance(count, note=name),
            batch,
            workers,
            subset=None if settings.subset == "full" else settings.subset,
            renew=renew,
        )
    if workers.is_first:
        write_scores(out)
    workers.wait()


def _images(loaded: LoadedBackbone, settings: Settings, asked: Sequence[Asked], workers: Ranks) -> Images:
    """Return where the tokens of some benchmarks' images come from: a shared store if there is one, or the backbone."""
    shared = shared_token_folder()
    kind = BlankedImages if settings.images == "blanked" else ImageEncoder
    encoder = kind(loaded.network.to(workers.device).eval(), loaded.geometry, Path(settings.data))
    known = StoredImages(encoder, shared, loaded) if shared and settings.images != "blanked" else encoder
    if settings.images != "shuffled":
        return known
    return ShuffledImages(known, shuffle([example.image for _, examples, _ in asked for example in examples]))


def _write_records(out: Path, run: Path, settings: Settings, frame: TestBoxFrame, *, is_half: bool) -> None:
    """Write what was evaluated and how; refuse a folder that holds an evaluation of something else."""
    path = RunFolder(out).evaluation
    weights = {
        file.name: [file.stat().st_size, file.stat().st_mtime_ns]
        for file in sorted(model_folder(run).glob("*.safetensors"))
    }
    record = {
        "run": str(run),
        "weights": weights,
        **settings.model_dump(exclude={"images"} if settings.images == "as-is" else None),
        "box_frame": frame,
        "precision": "bf16" if is_half else "fp32",
    }
    if path.is_file() and (before := read_json(path)) != record:
        changed = ", ".join(key for key in record if before.get(key) != record[key])
        raise RunError(f"{out}: holds an evaluation with other {changed}; choose another --out, or delete it")
    write_json(path, record)
    write_record(RunFolder(out).environment, environment())


def _write_spec(
    out: Path, run: Path, settings: Settings, frame: TestBoxFrame, asked: Sequence[Asked], geometry: ImageGeometry
) -> None:
    """Write the run's record with what the evaluation changed: questions, box frame, images, where they lie."""
    record = record_of(run)
    if record is None:
        return
    images = {benchmark.name: [example.image for example in examples] for benchmark, examples, _ in asked}
    canvas = canvas_of(geometry, str(record.backbone.name), Path(settings.data), images)
    changed = {
        "benchmarks": tuple(images),
        "test_box_frame": frame,
        "images": settings.images,
        "observed": record.observed.model_copy(update={"canvas": canvas}),
    }
    write_record(RunFolder(out).record, record.model_copy(update=changed))
