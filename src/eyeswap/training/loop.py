"""One-stage instruction tuning: connector and LLM learn, the backbone stays frozen.

A step takes one global batch in as many passes as the machine needs. Its loss is the exact mean over all answer tokens
of the global batch, whatever the passes and processes (``token-mean``); ``micro-batch-mean`` reproduces the published
mean of micro-batch means. Random numbers, where a model draws any, are drawn anew at every pass from seed, step and
pass, so that a resumed run draws the same.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from eyeswap.errors import RunError
from eyeswap.processes import this_process
from eyeswap.recipe import Execution, Recipe
from eyeswap.runs.folder import RunFolder
from eyeswap.training.attention import can_pack, compiled, packed_attention, recomputed
from eyeswap.training.batches import Cutter, Feed, Layout, TrainingData
from eyeswap.training.checkpoint import Checkpoints
from eyeswap.training.log import TrainLog, open_trackers
from eyeswap.training.speed import Meter, complaint, pass_flops
from eyeswap.training.step import Trainer
from eyeswap.vlm.model import VisionLanguageModel

_NAMED = 8  # examples that a message names


def train(
    model: VisionLanguageModel,
    data: TrainingData,
    recipe: Recipe,
    run_dir: Path,
    digest: str,
    seed: int = 0,
    execution: Execution | None = None,
    report: Callable[[int, str], None] = lambda done, note: None,
    warn: Callable[[str], None] = lambda message: None,
    peak_flops: float | None = None,
) -> None:
    """Train connector and LLM in place, resuming from the run's last whole checkpoint if there is one.

    Args:
        model: the VLM; all its parameters that require a gradient are trained.
        data: conversations, images, order of batches, source of visual tokens.
        recipe: optimiser, schedule, precision, loss.
        run_dir: gets ``train.jsonl`` and ``checkpoints/``.
        digest: identifies recipe, data and arm; a checkpoint of another digest is refused.
        seed: of the random numbers that the model draws, if it does.
        execution: how the machine does it.
        report: told after every step how many are done, with loss and speed in words.
        warn: told about damaged checkpoints that are passed over.
        peak_flops: peak of one process's device, FLOP/s; None if not known.

    Raises:
        RunError: if the loss is no number or explodes, or a checkpoint cannot be written; the message says which one
            is the last.
        CheckpointError: if a checkpoint belongs to another run, or none is whole.
        SpecError: if recipe and execution do not fit.
    """
    execution, ranks, files = execution or Execution(), this_process(), RunFolder(run_dir)
    packs = execution.tokens_per_pass is not None and can_pack(model.llm)
    cutter = Cutter.of(data, recipe, execution, ranks.size, packs)
    layout = Layout(model.config.image_token_id, model.config.bos_first, int(model.tokenizer.pad_token_id or 0), packs)
    workers = min(execution.workers, os.cpu_count() or 1) if data.source.decodes else 0
    feed = Feed(data, layout, cutter, ranks.rank, workers)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_ready_to_train(model, packs, execution))
        trainer = Trainer.of(model, data, recipe, ranks, seed, execution.reduce_once or ranks.size == 1)
        checkpoints = stack.enter_context(
            Checkpoints(
                files.checkpoints, digest, ranks, execution.keep_checkpoints, execution.checkpoint_every_s, warn
            )
        )
        first = checkpoints.load(trainer.learner, trainer.optimizer)
        trackers = open_trackers(execution.track, run_dir, recipe.model_dump(mode="json")) if ranks.is_first else []
        log = TrainLog(files.training_log, first, trackers, writes=ranks.is_first)
        stack.callback(log.close)
        meter = Meter(peak_flops and peak_flops * ranks.size)
        started = time.perf_counter() - log.elapsed_s
        for step, passes in enumerate(feed.steps(first), start=first):
            row, is_due = trainer.step(step, passes, checkpoints.is_due())
            problem = complaint(row["loss"], row["grad_norm"], log.losses, model.config.text_config.vocab_size)
            if problem:
                checkpoints.wait()
                named = ", ".join(data.ids[index] for index in data.order[step][:_NAMED])
                raise RunError(
                    f"{run_dir}: {problem} at step {step} (examples {named}, ...); {checkpoints.last}; lower recipe.lr"
                )
            trainer.update()
            lengths = [cutter.lengths[index] for index in data.order[step]]
            meter.add(sum(lengths), pass_flops(model, lengths))
            log.add({**row, "tokens": sum(lengths), "elapsed_s": time.perf_counter() - started})
            report(step + 1, f"loss {row['loss']:.3f}, {meter.note}")
            if is_due:
                checkpoints.save(trainer.learner, trainer.optimizer, step + 1)


@contextlib.contextmanager
def _ready_to_train(model: VisionLanguageModel, packs: bool, execution: Execution) -> Iterator[None]:
    """Put a model into training mode; afterwards into eval mode, its frozen backbone as it was.

    As published, batch norms of the backbone drift while training goes on, and are thrown away with it.
    """
    frozen = None if model.config.wiring == "controlled" else model.backbone.network
    before = {} if frozen is None else {name: tensor.clone() for name, tensor in frozen.state_dict().items()}
    with (
        torch.random.fork_rng(),
        packed_attention(model.llm) if packs else contextlib.nullcontext(),
        compiled(model.llm, execution.compile),
        recomputed(model.llm, execution.recompute),
    ):
        model.train()
        try:
            yield
        finally:
            model.eval()
            if frozen is not None:
                frozen.load_state_dict(before)
