"""Train one run: build its VLM, write its record, train, and save ``model/``."""

from __future__ import annotations

import copy
import dataclasses
import functools
import shutil
from datetime import date

import torch
import torch.distributed as dist

from eyeswap.backbones.weights import LoadedBackbone
from eyeswap.errors import SpecError
from eyeswap.evaluation.frames import View, messages_in_frame
from eyeswap.files import digest, read_json, write_json
from eyeswap.planning.hardware import peak_flops
from eyeswap.planning.plan import PlannedRun
from eyeswap.processes import Ranks
from eyeswap.progress import Progress, Task
from eyeswap.recipe import Blocks
from eyeswap.runs.folder import StudyFolder
from eyeswap.shipped import llm_source
from eyeswap.study.run_record import write_records
from eyeswap.study.study_data import StudyData, listed, without_answer
from eyeswap.tokens.cache import TokenCache
from eyeswap.training.batches import TrainingData
from eyeswap.training.collate import EncodedConversations
from eyeswap.training.loop import train
from eyeswap.training.lora import add_adapters
from eyeswap.training.saving import save_trained
from eyeswap.training.vision import CachedTokens, LiveTokens, TunedTokens
from eyeswap.vlm.connector import build_connector
from eyeswap.vlm.deferred import DeferredWeights, defer_llm
from eyeswap.vlm.model import VisionLanguageModel, load_llm

_PARTS = {
    "connector": "connector",
    "connector+llm": "connector and LLM",
    "connector+adapters": "connector and adapters",
    "connector+llm+blocks": "connector, LLM and blocks of the backbone",
}


def train_run(
    run: PlannedRun, data: StudyData, loaded: LoadedBackbone, cache: TokenCache | None, board: Progress, ranks: Ranks
) -> None:
    """Train a run's VLM and save it as ``model/``, resuming from its last checkpoint if there is one.

    Args:
        run: the run.
        data: its training data.
        loaded: its frozen backbone.
        cache: visual tokens of all images; None encodes the images in every step.
        board: shows progress.
        ranks: the processes that train together; all of them call this function.

    Raises:
        RunError, CheckpointError, SpecError: see `eyeswap.training.loop.train`.
        DataError: if a training image cannot be read, or no conversation has an answer left to learn from.
        EnvironmentProblem: if adapters are requested and peft is not installed.
    """
    recipe = run.recipe
    if recipe.tuned is not None:
        loaded = _with_blocks_that_learn(loaded, recipe.tuned, ranks)
    model, weights = _untrained_model(run, loaded, ranks)
    live = LiveTokens if recipe.tuned is None else TunedTokens
    source = live.of(model, data.root) if cache is None else CachedTokens(cache, model.connector.num_tokens)
    if cache is not None:
        cache.require([instruction.image for instruction in data.instructions if instruction.image is not None])
    encoded = _encoded(run, data, loaded, model, board, ranks)
    unanswered = without_answer(data, encoded, recipe.max_text_tokens)
    if unanswered:
        counts = f"{len(unanswered):,} of {len(data.instructions):,} conversations contribute no loss"
        message = f"{run.arm}: {counts}: {unanswered[0].reason}: {listed(unanswered)} (all are listed in left-out.json)"
        board.say(message)
    trained_on = TrainingData.of(data.instructions, encoded, recipe, run.seed, source)
    if ranks.is_first:
        write_records(run, data, loaded, model, trained_on, unanswered)
    if recipe.trained == "connector":
        model.llm.requires_grad_(False)
    if recipe.adapter_rank is not None:
        add_adapters(model.llm, recipe.adapter_rank, run.seed)
    train(
        model,
        trained_on,
        recipe,
        run.folder,
        _checkpoint_digest(run, data, loaded),
        run.seed,
        run.study.execution,
        _TrainingProgress(f"{run.arm}: training {_PARTS[recipe.trained]}", len(trained_on.order), board),
        board.say,
        peak_flops(torch.cuda.get_device_name()) if ranks.device.type == "cuda" else None,
        weights,
    )
    _save(run, model, ranks)


def _with_blocks_that_learn(loaded: LoadedBackbone, blocks: Blocks, ranks: Ranks) -> LoadedBackbone:
    """Return a copy of a frozen backbone whose last blocks learn; the original is shared by other runs."""
    if ranks.size > 1:
        raise SpecError("trainable connector+llm+blocks: one process trains blocks of a backbone; run without torchrun")
    network = copy.deepcopy(loaded.network)
    network.unfreeze(blocks.last)
    return dataclasses.replace(loaded, network=network)


def _checkpoint_digest(run: PlannedRun, data: StudyData, loaded: LoadedBackbone) -> str:
    """Return the digest that a run's checkpoints carry; those of versions before the model digest stay valid."""
    record = run.record
    run_digest = None if record is None else record.run_digest
    return digest([run_digest or run.model.with_backbone(loaded.weights_sha256).digest, data.digest])


def _untrained_model(
    run: PlannedRun, loaded: LoadedBackbone, ranks: Ranks
) -> tuple[VisionLanguageModel, DeferredWeights | None]:
    """Return a run's VLM, and its LLM's weights if they are to be read when it is sharded over a process group."""
    recipe = run.recipe
    source, today = llm_source(recipe.llm), functools.partial(_first_day, run.files.study)
    deferred = defer_llm(source, recipe.prompt, today, ranks.is_first) if dist.is_initialized() else None
    weights = None
    if deferred is None:
        llm, tokenizer, prompt = load_llm(source, prompt=recipe.prompt, today=today)
    else:
        llm, tokenizer, prompt, weights = deferred
    connector = build_connector(
        run.study.connector_of(run.arm),
        loaded.network.embed_dim,
        llm.config.hidden_size,
        run.seed,
        loaded.wiring,
        loaded.token_grid,
    )
    model = VisionLanguageModel.from_parts(llm, tokenizer, connector, prompt, loaded)
    model.config.box_frame = recipe.trained_box_frame or "original"
    return model, weights


def _first_day(study: StudyFolder) -> date:
    """Return the date that prompts print in all runs of a study: the day on which its first run asked for it."""
    if not study.prompt_date.is_file():
        write_json(study.prompt_date, {"date": date.today().isoformat()})
    return date.fromisoformat(read_json(study.prompt_date)["date"])


def _encoded(
    run: PlannedRun, data: StudyData, loaded: LoadedBackbone, model: VisionLanguageModel, board: Progress, ranks: Ranks
) -> EncodedConversations:
    """Return the tokenized conversations, shared by runs with the same text; each process tokenizes a part of them."""
    recipe = run.recipe
    canvas = loaded.geometry.canonical() if recipe.trained_box_frame == "canvas" else None
    key = digest([canvas, recipe.llm])
    if key not in data.encoded:
        data.encoded.clear()
        count = len(data.instructions)
        own = data.instructions[count * ranks.rank // ranks.size : count * (ranks.rank + 1) // ranks.size]
        task = board.task(f"{run.arm}: tokenizing conversations", len(own))
        view = View.of(loaded.geometry, loaded.name, loaded.family)
        frames = recipe.file_box_frame, recipe.trained_box_frame
        messages = list(messages_in_frame(own, data.root, *frames, view))
        encoded = EncodedConversations.of(messages, model.prompt, model.tokenizer, recipe.max_text_tokens, task.advance)
        data.encoded[key] = EncodedConversations.joined(ranks.gather(encoded))
    return data.encoded[key]


def _save(run: PlannedRun, model: VisionLanguageModel, ranks: Ranks) -> None:
    """Write the model of all processes from the first one, completely or not at all."""
    unfinished = run.files.unfinished_model
    if ranks.is_first:
        shutil.rmtree(unfinished, ignore_errors=True)
    has_own_backbone = run.study.arms[run.arm].weights is not None or run.recipe.tuned is not None
    save_trained(model, unfinished, ranks, include_backbone=has_own_backbone)
    if ranks.is_first:
        model.processor.save_pretrained(unfinished)
        unfinished.rename(run.files.model)
    ranks.wait()


class _TrainingProgress:
    """Shows the progress of training; a resumed run is timed from the step at which it resumed."""

    def __init__(self, title: str, total: int, board: Progress) -> None:
        self._title, self._total, self._board = title, total, board
        self._task: Task | None = None

    def __call__(self, done: int, note: str) -> None:
        if self._task is None:
            self._task = self._board.task(self._title, self._total, done - 1)
        self._task.advance(done - self._task.done, note)
