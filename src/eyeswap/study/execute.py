"""Run a study: data, then for every run tokens, training, evaluation, scores; whatever is finished is skipped.

Every stage reads files and writes files. A stage's output appears whole under its final name or not at all, so an
interrupted study goes on from the last finished stage, and within training from the last checkpoint.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from eyeswap.adaptation.shipped import llm_path
from eyeswap.backbones.weights import LoadedBackbone, load_backbone
from eyeswap.data.digits.write import (
    INSTRUCTION_FILE,
    INSTRUCTION_IMAGES,
    DigitsSize,
    num_scenes,
    write_digits,
)
from eyeswap.data.formats import Example
from eyeswap.data.instruction import Instruction, read_instructions
from eyeswap.data.order import order_digest
from eyeswap.data.tokens import TokenCache, cache_tokens, token_folder
from eyeswap.errors import DataError, SpecError
from eyeswap.evaluation import get_benchmark
from eyeswap.evaluation.baselines import TrivialBaseline
from eyeswap.evaluation.benchmark import Benchmark
from eyeswap.evaluation.frames import asked_in_frame, messages_in_frame
from eyeswap.evaluation.runner import evaluate
from eyeswap.files import digest, sha256_of, write_json
from eyeswap.progress import Progress, progress
from eyeswap.recipe import DigitsData, Recipe
from eyeswap.study.environment import environment
from eyeswap.study.estimate import positions_problem
from eyeswap.study.launch import alone_in, work_through
from eyeswap.study.observed import observed
from eyeswap.study.plan import PlannedRun, plan_runs, refuse_changed
from eyeswap.study.scores import write_scores
from eyeswap.study.spec import Study
from eyeswap.training.examples import TrainingData
from eyeswap.training.loop import train
from eyeswap.training.parallel import join
from eyeswap.training.vision import CachedTokens
from eyeswap.vlm.connector import build_connector
from eyeswap.vlm.model import VisionLanguageModel, load_llm

_BOX_MARK = "region this sentence describes:"


@dataclass(frozen=True)
class StudyData:
    """What all runs of a study share.

    Attributes:
        root: folder that image paths are relative to.
        digest: digest of the data's bytes.
        instructions: the training conversations.
        asked: benchmarks with their examples and trivial baselines.
    """

    root: Path
    digest: str
    instructions: Sequence[Instruction]
    asked: Sequence[tuple[Benchmark, Sequence[Example], TrivialBaseline]]

    @property
    def image_sets(self) -> dict[str, list[str]]:
        """The images of the training data and of each benchmark, by name."""
        tested = {benchmark.name: [example.image for example in examples] for benchmark, examples, _ in self.asked}
        return {"training": [str(instruction.image) for instruction in self.instructions], **tested}

    @property
    def images(self) -> list[str]:
        """Every image that a run must see, each once: training images first."""
        return list(dict.fromkeys(image for images in self.image_sets.values() for image in images))


def run_study(study: Study, study_file: Path, runs_dir: Path, console: Console) -> Path:
    """Do whatever of a study is not done yet and nobody else does; wait for what others do.

    Args:
        study: the study.
        study_file: the file it came from, for messages.
        runs_dir: folder of all studies' runs.
        console: where progress is shown.

    Returns:
        The study's folder; the caller writes the report from it.

    Raises:
        SpecError: if a run folder holds a run of another recipe, an arm wants the as-published wiring, or its visual
            tokens leave no position for text.
        RunError: if runs failed, after all others are done.
    """
    study_dir = runs_dir / study.name
    planned = plan_runs(study, runs_dir)
    refuse_changed(planned, study_file)
    todo = [run for run in planned if run.state() != "done"]
    if not todo:
        console.print(f"all {len(planned)} runs of {study.name} are done", highlight=False)
        return study_dir
    llm, *_ = load_llm(llm_path(study.recipe.llm))  # a missing checkpoint is told at once, not after minutes of work
    for arm in study.arms:
        if study.wiring_of(arm) == "as-published":
            raise SpecError(
                f"{study_file}: arms.{arm}.wiring: as-published keeps the backbone in train mode, so its tokens change "
                "from step to step and cannot be cached; studies run controlled wiring only, for now"
            )
        check_positions(study, arm, load_arm(study, arm), int(llm.config.max_position_embeddings))
    write_json(study_dir / "study.json", study.model_dump(mode="json"))
    with join() as ranks, progress(console if ranks.is_first else Console(quiet=True)) as board:
        with ranks.first_alone(), alone_in(study_dir / "data", console) if ranks.is_first else nullcontext():
            data = prepare_data(study, study_dir, board)
        work_through(planned, lambda run: execute_run(run, data, study_dir, board), board.console, ranks)
    return study_dir


def check_positions(study: Study, arm: str, loaded: LoadedBackbone, positions: int) -> None:
    """Check that an arm's visual tokens leave the LLM room for text, or may go beyond.

    Raises:
        SpecError: with the choices there are.
    """
    rows, columns = loaded.token_grid
    stride_px = loaded.geometry.canvas[0] / rows
    problem = positions_problem(study.recipe.llm, positions, rows * columns, stride_px)
    if problem is not None and study.beyond_positions == "refuse":
        raise SpecError(f"{study.name}: arms.{arm}: {problem}")


def prepare_data(study: Study, study_dir: Path, board: Progress) -> StudyData:
    """Write the embedded data set if the study uses it, and read all training and test data.

    Raises:
        DataError: naming the file and row that is wrong.
    """
    source = study.recipe.data
    if isinstance(source, DigitsData):
        root = study_dir / "data"
        size = DigitsSize(source.seed, source.num_train_images, source.num_val_images, source.turns)
        task = board.task("draw the data set", num_scenes(size))
        data_digest = write_digits(root, size, task.advance)
        instructions = read_instructions(root / INSTRUCTION_FILE, INSTRUCTION_IMAGES)
    else:
        root = Path(source.folder)
        path = root / source.instruction
        instructions = read_instructions(path, str(Path(source.instruction).parent))
        data_digest = sha256_of(path)
    for row, instruction in enumerate(instructions, start=1):
        if instruction.image is None:
            raise DataError(f"{root}: instruction record {row} has no image; remove text-only records")
    asked = []
    for name in study.benchmarks:
        benchmark = get_benchmark(name)
        examples = benchmark.slim(root, study.subset) if study.subset else benchmark.examples(root)
        asked.append((benchmark, examples, TrivialBaseline.of(benchmark, root)))
    return StudyData(root, data_digest, instructions, asked)


def execute_run(run: PlannedRun, data: StudyData, study_dir: Path, board: Progress) -> None:
    """Take one run to its end: tokens, training, predictions, scores."""
    loaded = load_arm(run.study, run.arm)
    task = board.task(f"{run.arm}: visual tokens", len(data.images))
    cache = cache_tokens(token_folder(study_dir), loaded, data.root, data.images, task.advance)
    model = _trained_model(run, data, loaded, cache, board)
    asked = asked_in_frame(data.asked, data.root, run.study.recipe.box_frame, loaded.geometry)
    task = board.task(f"{run.arm}: benchmarks", sum(len(examples) for _, examples, _ in asked))
    evaluate(model, cache, asked, run.folder, lambda name, count: task.advance(count, note=name))
    write_scores(run.folder)
    shutil.rmtree(run.folder / "checkpoints", ignore_errors=True)


def load_arm(study: Study, arm: str) -> LoadedBackbone:
    """Load an arm's frozen backbone as the arm declares it: weights, wiring, tap, geometry."""
    treatment = study.arms[arm]
    return load_backbone(
        treatment.backbone, wiring=study.wiring_of(arm), tap=treatment.tap, geometry=treatment.geometry
    )


def _trained_model(
    run: PlannedRun, data: StudyData, loaded: LoadedBackbone, cache: TokenCache, board: Progress
) -> VisionLanguageModel:
    """Return the run's trained VLM, training it first unless ``model/`` is there."""
    folder = run.folder / "model"
    if folder.is_dir():
        return VisionLanguageModel.load(folder)
    cache.require([instruction.image for instruction in data.instructions if instruction.image is not None])
    recipe, kind = run.study.recipe, run.study.connector_of(run.arm)
    path = llm_path(recipe.llm)
    llm, tokenizer, prompt = load_llm(path)
    connector = build_connector(kind, loaded.network.embed_dim, llm.config.hidden_size, run.seed, loaded.wiring)
    model = VisionLanguageModel.from_parts(llm, tokenizer, connector, prompt, loaded)
    model.config.box_frame = recipe.box_frame
    messages = list(messages_in_frame(data.instructions, data.root, recipe.box_frame, loaded.geometry))
    trained_on = TrainingData.of(data.instructions, messages, prompt, tokenizer, recipe, run.seed, CachedTokens(cache))
    order = trained_on.order
    spec = _spec(run, data, loaded, model, order_digest(order, trained_on.ids), len(order))
    write_json(run.folder / "spec.json", spec)
    write_json(run.folder / "environment.json", environment())
    task = board.task(f"{run.arm}: train connector and LLM", len(order))

    def show(step: int, note: str) -> None:
        task.advance(step - task.done, note=note)

    train(model, trained_on, recipe, run.folder, run.digest, run.seed, run.study.execution, show, board.console.print)
    unfinished = run.folder / "model.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    model.save(unfinished)
    unfinished.rename(folder)
    return model


def _spec(
    run: PlannedRun,
    data: StudyData,
    loaded: LoadedBackbone,
    model: VisionLanguageModel,
    order: str,
    num_steps: int,
) -> dict[str, Any]:
    """Return everything that decided this run, for the audit and for readers."""
    recipe: Recipe = run.study.recipe
    start = {key: value.tolist() for key, value in model.connector.state_dict().items()}
    trained, tested = _box_requests(data)
    return {
        "study": run.study.name,
        "arm": run.arm,
        "seed": run.seed,
        "run_digest": run.digest,
        "recipe": recipe.model_dump(mode="json"),
        "recipe_digest": recipe.digest,
        "data_digest": data.digest,
        "order_digest": order,
        "num_steps": num_steps,
        "train_prompt": model.prompt.question(trained),
        "test_prompt": model.prompt.question(tested),
        "train_box_frame": recipe.box_frame,
        "test_box_frame": recipe.box_frame,
        "benchmarks": list(run.study.benchmarks),
        "may_differ": list(run.study.may_differ),
        "llm": {"name": recipe.llm, "sha256": folder_digest(llm_path(recipe.llm))},
        "connector": {"kind": run.study.connector_of(run.arm), "init_digest": digest(start)},
        "backbone": loaded.record(),
        "observed": observed(
            run.study, loaded, data.root, data.image_sets, int(model.llm.config.max_position_embeddings)
        ),
    }


def _box_requests(data: StudyData) -> tuple[str, str]:
    """Return how training and test ask for a box, expressions replaced by ``{expression}``.

    The published pipeline trains without quotes and with a full stop, and tests the other way round; the audit
    warns where the two differ. Without boxes on both sides there is nothing to compare.
    """
    asked = (message for instruction in data.instructions for message in instruction.messages[::2])
    trained = next((message for message in asked if _BOX_MARK in message), None)
    tested = [
        benchmark.user_message(examples[0])
        for benchmark, examples, _ in data.asked
        if benchmark.answer_kind == "box" and examples
    ]
    if trained is None or not tested:
        return "{question}", "{question}"
    return _template(trained), _template(tested[0])


def _template(request: str) -> str:
    before, mark, expression = request.partition(_BOX_MARK)
    words = expression.strip(" \"'.")
    return before + mark + expression.replace(words, "{expression}") if words else request


def folder_digest(folder: Path) -> str:
    """Return the sha256 (hex) over the names and sums of all files of a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return digest({str(path.relative_to(folder)): sha256_of(path) for path in files})
