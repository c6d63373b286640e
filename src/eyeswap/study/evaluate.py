"""Evaluate a run, or any saved VLM, on any benchmarks; a study evaluates its runs by the same function.

Outside of a study the result is a folder like that of a run: ``predictions/``, ``scores.json`` and the run's record
with what the evaluation changed, so that `eyeswap score`, `compare` and `audit` treat it as one. By default it is
written to ``evaluations/<data>-<subset>-<mode>`` in the run's folder, followed by ``-blanked`` or ``-shuffled`` if
images are not shown as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
from eyeswap.runs.log import run_log
from eyeswap.runs.record import RunRecord, StudyRecord
from eyeswap.runs.recorded import read_record, write_record
from eyeswap.tokens.cache import ImageEncoder, StoredImages, TokenCache, shared_token_folder
from eyeswap.vlm.model import VisionLanguageModel
from eyeswap.vlm.processor import VisionLanguageProcessor
from eyeswap.vlm.prompt import Prompt
from eyeswap.vlm.prompt_check import check_choices

SLIM = 1024  # the published suite's slim sets


class Settings(BaseModel):
    """Everything other than the model that determines an evaluation's numbers.

    Attributes:
        data: data root.
        subset: ``full``, or the number of examples per benchmark part.
        split: ``eval``, the split that the study reports, or ``train``.
        mode: ``study`` or ``official``.
        box_frame: frame in which boxes are scored; None: that of the run's study, or outside of a study the frame that
            the model was trained on.
        precision: arithmetic of the LLM; ``auto`` is bf16 on a GPU, as published, and fp32 on a CPU.
        images: ``as-is``, or ``blanked`` or ``shuffled`` to measure how much the answers depend on the image
            (`eyeswap.evaluation.probes`).
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
        """A folder name made of the settings that are not at their defaults."""
        parts = [Path(self.data).resolve().name, "" if self.split == "eval" else self.split, self.subset, self.mode]
        images = "" if self.images == "as-is" else self.images
        return "-".join(str(part) for part in [*parts, self.box_frame, images] if part)


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
        raise SpecError(f"--subset {text}: write slim ({SLIM} examples per part), a number, or full")
    return int(text)


def study_settings(run: Path) -> tuple[str | None, int | Literal["full"], list[str]]:
    """Return data root, subset and benchmarks of a run's study; None, ``full`` and an empty list outside of a study."""
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
    **options: Any,
) -> tuple[list[str], Settings]:
    """Return the benchmarks and settings of an evaluation, with defaults taken from the run's study.

    Args:
        run: folder of a run, or of a saved VLM.
        benchmarks: names, or YAML files of your own benchmarks.
        data: data root.
        subset: see `parse_subset`.
        **options: further fields of `Settings`; None and empty text stand for the default.

    Raises:
        SpecError: if there is no such folder or setting, or the run belongs to no study and something is missing.
    """
    if not run.is_dir():
        raise SpecError(f"{run}: no such folder; name a run, such as runs/quickstart/vit/seed-7, or a saved VLM")
    root, study_subset, study_benchmarks = study_settings(run)
    names = list(benchmarks) or study_benchmarks
    if not names or (data is None and root is None):
        raise SpecError(f"{run}: belongs to no study; give --benchmarks and --data")
    chosen = {key: value for key, value in options.items() if value not in (None, "")}
    chosen["subset"] = study_subset if subset in (None, "") else parse_subset(str(subset))
    try:
        return names, Settings.model_validate({"data": str(data or root), **chosen})
    except ValidationError as problem:
        first = problem.errors()[0]
        raise SpecError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}, got {first['input']!r}") from None


def record_of(run: Path) -> RunRecord | None:
    """Return the record of the run in a folder or its parent; None for a model that belongs to no run."""
    for files in (RunFolder(run), RunFolder(run.parent)):
        if files.is_begun and files.is_trained:
            return read_record(files.record, RunRecord)
    return None


def read_examples(names: Sequence[str], settings: Settings) -> Iterator[tuple[Benchmark, list[Example]]]:
    """Yield each benchmark with its selected examples.

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
            raise DataError(f"{root}: contains no examples of {name}")
        yield benchmark, examples


def show_prompts(run: Path, names: Sequence[str], settings: Settings, count: int) -> list[dict[str, Any]]:
    """Return the first ``count`` prompts of each benchmark exactly as the model receives them, without loading weights.

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
    *,
    trusts_code: bool | str = False,
) -> Path:
    """Evaluate a VLM; questions answered before an interruption are not asked again.

    Args:
        run: folder of a run, or of a saved VLM.
        names: names of benchmarks, or YAML files of your own.
        settings: which examples to ask, and how to read and score the answers.
        board: where progress is shown.
        out: output folder; by default in the run's folder.
        batch: batch size.
        workers: the processes that share the work.
        trusts_code: whether the code of a custom encoder or connector may run, or the sha256 of the connector that may.

    Returns:
        The output folder, with ``scores.json``.

    Raises:
        RunError: if there is no trained model, or the folder holds another evaluation.
        SpecError: if a benchmark does not exist.
        DataError: naming file and row.
    """
    workers, folder = workers or Ranks(), model_folder(run)
    out = out or RunFolder(run).evaluation_folder(settings.name).path
    root = Path(settings.data)
    processor = VisionLanguageProcessor.from_pretrained(folder)
    selected = list(read_examples(names, settings))
    check_choices(processor.tokenizer, processor.prompt, (benchmark.choices for benchmark, _ in selected))
    asked: list[Asked] = [
        (benchmark, examples, TrivialBaseline.of(benchmark, root)) for benchmark, examples in selected
    ]
    model = load_model(folder, settings, workers, trusts_code=trusts_code)
    frame = settings.box_frame or _box_frame(run, model)
    loaded = model.backbone
    if workers.is_first:
        _write_records(out, run, settings, frame, is_half=_is_half(settings, workers))
        _write_spec(out, run, settings, frame, asked, loaded.geometry)
    workers.wait()
    task = board.task(f"{run}: benchmarks", sum(len(examples) for _, examples, _ in asked))
    shown_in = settings.model_copy(update={"box_frame": frame})
    with run_log(RunFolder(out).log, f"evaluate {', '.join(names)}", writes=workers.is_first):
        ask_and_score(model, loaded, asked, out, shown_in, task, batch, workers)
    return out


def load_model(
    folder: Path, settings: Settings, workers: Ranks, *, trusts_code: bool | str = False
) -> VisionLanguageModel:
    """Load a trained VLM in the precision of an evaluation.

    Raises:
        CheckpointError: if it is damaged.
        SpecError: if its connector is custom code that is not trusted.
    """
    dtype = torch.bfloat16 if _is_half(settings, workers) else torch.float32
    model: VisionLanguageModel = VisionLanguageModel.load(folder, dtype=dtype, trust_remote_code=trusts_code)
    model.to(workers.device)
    return model


def _is_half(settings: Settings, workers: Ranks) -> bool:
    return settings.precision == "bf16" or (settings.precision == "auto" and workers.device.type == "cuda")


def _box_frame(run: Path, model: VisionLanguageModel) -> TestBoxFrame:
    """Return the frame in which a run's study scores boxes; outside of a study, the one the model answers in."""
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
    """Ask a VLM questions, store its answers and score them; every evaluation goes through this function.

    Args:
        model: the trained VLM.
        loaded: its backbone, with the geometry of its images.
        asked: benchmarks with examples and trivial baselines.
        out: folder for ``predictions/`` and ``scores.json``.
        settings: how images are shown, and in which frame boxes are scored.
        task: shows how many questions are answered.
        batch: batch size.
        workers: the processes that share the work.
        cache: visual tokens of all images; without it the backbone computes them.
        renew: see `eyeswap.evaluation.runner.evaluate`.

    Raises:
        RunError: if the folder contains answers to other questions, unless ``renew`` is set.
        DataError: naming file and row.
    """
    workers, root = workers or Ranks(), Path(settings.data)
    view = View.of(loaded.geometry, loaded.name, loaded.family)
    frame: TestBoxFrame = settings.box_frame or "original"
    asked = asked_in_frame(asked, root, frame, view, exact_truth=settings.subset != "full")
    # Images are shuffled within each benchmark, so that every question gets another image of the same kind.
    for part in [[benchmark] for benchmark in asked] if settings.images == "shuffled" else [asked]:
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
    """Return the source of visual tokens: a shared store if there is one, otherwise the backbone."""
    shared = shared_token_folder()
    kind = BlankedImages if settings.images == "blanked" else ImageEncoder
    encoder = kind(loaded.network.to(workers.device).eval(), loaded.geometry, Path(settings.data))
    source = StoredImages(encoder, shared, loaded) if shared and settings.images != "blanked" else encoder
    if settings.images != "shuffled":
        return source
    return ShuffledImages(source, shuffle([example.image for _, examples, _ in asked for example in examples]))


def _write_records(out: Path, run: Path, settings: Settings, frame: TestBoxFrame, *, is_half: bool) -> None:
    """Write ``evaluation.json`` and ``environment.json``; refuse a folder with a different evaluation."""
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
        raise RunError(f"{out}: holds an evaluation with different {changed}; choose another --out, or delete it")
    write_json(path, record)
    write_record(RunFolder(out).environment, environment())


def _write_spec(
    out: Path, run: Path, settings: Settings, frame: TestBoxFrame, asked: Sequence[Asked], geometry: ImageGeometry
) -> None:
    """Write the run's record, updated with what the evaluation changed: benchmarks, box frame, images and canvas."""
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
