"""Run a study: data, then for every run tokens, training, evaluation, scores; whatever is finished is skipped.

Every stage reads files and writes files. A stage's output appears whole under its final name or not at all, so an
interrupted study goes on from the last finished stage, and within training from the last checkpoint. Under torchrun all
processes take each run together.
"""

from __future__ import annotations

import gc
import shutil
from contextlib import nullcontext
from pathlib import Path

import torch
from rich.console import Console

from eyeswap.backbones.weights import LoadedBackbone, load_backbone
from eyeswap.console import open_console
from eyeswap.errors import SpecError
from eyeswap.evaluation.frames import View
from eyeswap.evaluation.grounding import asked_in_frame
from eyeswap.evaluation.runner import evaluate
from eyeswap.files import write_json
from eyeswap.planning.estimate import positions_problem
from eyeswap.planning.plan import PlannedRun, plan_runs, refuse_changed
from eyeswap.planning.spec import Study
from eyeswap.processes import Ranks, join
from eyeswap.progress import Progress, progress
from eyeswap.results.scores import write_scores
from eyeswap.runs.folder import RunFolder, StudyFolder
from eyeswap.runs.seal import write_seal
from eyeswap.shipped import llm_source
from eyeswap.study.launch import alone_in, work_through
from eyeswap.study.study_data import StudyData, cached_tokens, prepare_data
from eyeswap.study.train_run import train_run
from eyeswap.tokens.cache import ImageEncoder, TokenCache, token_folder
from eyeswap.training.log import import_tracker
from eyeswap.training.lora import import_peft
from eyeswap.training.vision import check_canvas
from eyeswap.vlm.llm import load_llm, num_positions
from eyeswap.vlm.model import VisionLanguageModel


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
        SpecError: if a run folder holds a run of another recipe, or an arm's visual tokens leave no position for text.
        DataError: if the data are not as they should be.
        RunError: if runs failed, after all others are done.
    """
    study_dir = runs_dir / study.name
    planned = plan_runs(study, runs_dir)
    refuse_changed(planned, study_file)
    if all(run.state() == "done" for run in planned):
        console.print(f"all {len(planned)} runs of {study.name} are done", highlight=False)
        return study_dir
    check_arms(study)
    with join() as ranks, progress(console if ranks.is_first else open_console(quiet=True)) as board:
        with ranks.first_alone(), alone_in(StudyFolder(study_dir).data, console) if ranks.is_first else nullcontext():
            if ranks.is_first:
                write_json(StudyFolder(study_dir).study, study.model_dump(mode="json"))
            data = prepare_data(study, study_dir, board)
        work_through(planned, lambda run: execute_run(run, data, study_dir, board, ranks), board.console, ranks)
    return study_dir


def check_arms(study: Study) -> None:
    """Load what every arm needs, so that what is missing is told at once and not after hours of work.

    Raises:
        CheckpointError: if the LLM or a backbone cannot be had.
        SpecError: if an arm cannot be trained as it is; with the choices there are.
        EnvironmentProblem: if adapters are wanted and peft is not installed, or a tracker is not.
    """
    if study.recipe.lora_rank is not None:
        import_peft()
    for name in study.execution.track:
        import_tracker(name)
    positions = num_positions(load_llm(llm_source(study.recipe.llm))[0].config)
    for arm in study.arms:
        loaded = load_arm(study, arm)
        check_canvas(loaded)
        rows, columns = loaded.token_grid
        stride_px = loaded.geometry.canvas[0] / rows
        problem = positions_problem(study.recipe.llm, positions, rows * columns, stride_px)
        if problem is not None and study.beyond_positions == "refuse":
            raise SpecError(f"{study.name}: arms.{arm}: {problem}")


def load_arm(study: Study, arm: str) -> LoadedBackbone:
    """Load an arm's frozen backbone as the arm declares it: weights, wiring, tap, geometry."""
    treatment = study.arms[arm]
    return load_backbone(
        treatment.backbone, wiring=study.wiring_of(arm), tap=treatment.tap, geometry=treatment.geometry
    )


def execute_run(run: PlannedRun, data: StudyData, study_dir: Path, board: Progress, ranks: Ranks) -> None:
    """Take one run to its end: tokens, training, predictions, scores; all processes of a group call this."""
    loaded = load_arm(run.study, run.arm)
    cache = cached_tokens(run, data, loaded, token_folder(StudyFolder(study_dir).tokens), board, ranks)
    if not RunFolder(run.folder).is_trained:
        train_run(run, data, loaded, cache, board, ranks)
        gc.collect()  # a sharded model holds itself; its memory is needed now
    _answer(run, data, loaded, cache, board, ranks)
    if ranks.is_first:
        write_scores(run.folder)
        write_seal(run.folder)
        shutil.rmtree(RunFolder(run.folder).checkpoints, ignore_errors=True)
    ranks.wait()


def _answer(
    run: PlannedRun, data: StudyData, loaded: LoadedBackbone, cache: TokenCache | None, board: Progress, ranks: Ranks
) -> None:
    """Ask the saved VLM all benchmark questions; on a GPU in bf16, as published."""
    dtype = torch.bfloat16 if ranks.device.type == "cuda" else torch.float32
    model = VisionLanguageModel.load(RunFolder(run.folder).model, dtype=dtype).to(ranks.device)
    network = loaded.network.to(ranks.device).eval()
    images = ImageEncoder(network, loaded.geometry, data.root) if cache is None else cache
    view = View.of(loaded.geometry, loaded.name, loaded.family)
    asked = asked_in_frame(
        data.asked, data.root, run.study.recipe.test_box_frame, view, exact_truth=run.study.subset is not None
    )
    task = board.task(f"{run.arm}: benchmarks", sum(len(examples) for _, examples, _ in asked))
    evaluate(model, images, asked, run.folder, lambda name, count: task.advance(count, note=name), workers=ranks)
