"""The training loop of instruction tuning: connector and LLM are trained, the backbone stays frozen unless asked.

A step processes one global batch in as many passes as the machine needs. Its loss is the exact mean over all answer
tokens of the global batch, however it is divided into passes and processes (``token-mean``); ``micro-batch-mean``
reproduces the published mean of micro-batch means. The random generator is seeded in every pass from seed, step and
pass, so that a resumed run draws the same numbers.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from eyeswap.errors import RunError
from eyeswap.processes import termination, this_process, usable_cpus
from eyeswap.recipe import Execution, Recipe
from eyeswap.runs.folder import RunFolder
from eyeswap.training.attention import can_pack, compiled, packed_attention, recomputed
from eyeswap.training.batches import BatchLoader, BatchPlanner, Layout, TrainingData
from eyeswap.training.checkpoint import Checkpoints
from eyeswap.training.log import TrainLog, open_trackers
from eyeswap.training.speed import SpeedMeter, divergence, pass_flops
from eyeswap.training.step import Trainer
from eyeswap.vlm.deferred import DeferredWeights
from eyeswap.vlm.model import VisionLanguageModel

_MOST_LISTED = 8  # examples that a message lists


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
    weights: DeferredWeights | None = None,
) -> None:
    """Train connector and LLM in place, resuming from the run's last intact checkpoint if there is one.

    Args:
        model: the VLM; all its parameters that require a gradient are trained.
        data: conversations, images, batch order, and source of visual tokens.
        recipe: optimizer, schedule, precision and loss.
        run_dir: folder for ``train.jsonl`` and ``checkpoints/``.
        digest: identifies recipe, data and arm; a checkpoint with another digest is refused.
        seed: seed of the random numbers that the model draws, if any.
        execution: how training runs on this machine.
        report: called after every step with the number of steps done, and loss and speed as text.
        warn: called with a message about each damaged checkpoint that is skipped.
        peak_flops: peak throughput of one process's device, FLOP/s; None if unknown.
        weights: of the LLM, if they are to be read when it is sharded.

    Raises:
        Terminated: after a checkpoint, if this process or another of the group received SIGTERM.
        RunError: if the loss is not finite or diverges, or a checkpoint cannot be written; the message names the last
            checkpoint.
        CheckpointError: if a checkpoint belongs to another run, or none is intact.
        SpecError: if recipe and execution are incompatible.
    """
    execution, ranks, files = execution or Execution(), this_process(), RunFolder(run_dir)
    packs = execution.tokens_per_pass is not None and can_pack(model.llm)
    planner = BatchPlanner.of(data, recipe, execution, ranks.size, packs)
    layout = Layout(model.config.image_token_id, model.config.bos_first, int(model.tokenizer.pad_token_id or 0), packs)
    workers = min(execution.workers, usable_cpus()) if data.source.decodes else 0
    loader = BatchLoader(data, layout, planner, ranks.rank, workers)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_ready_to_train(model, packs, execution))
        reduces_once = execution.reduce_once or ranks.size == 1
        trainer = Trainer.of(model, data, recipe, ranks, seed, reduces_once, weights, execution.shard_over)
        checkpoints = stack.enter_context(
            Checkpoints(
                files.checkpoints, digest, ranks, execution.keep_checkpoints, execution.checkpoint_every_s, warn
            )
        )
        first = checkpoints.load(trainer.learner, trainer.optimizer)
        config = recipe.model_dump(mode="json")
        trackers = open_trackers(execution.track, run_dir, config, first) if ranks.is_first else []
        log = TrainLog(files.training_log, first, trackers, writes=ranks.is_first)
        stack.callback(log.close)
        meter = SpeedMeter(peak_flops and peak_flops * ranks.size)
        started = time.perf_counter() - log.elapsed_s
        stack.enter_context(termination.at_safe_points())
        for step, passes in enumerate(loader.steps(first), start=first):
            row, is_due, is_last = trainer.step(step, passes, checkpoints.is_due(), termination.requested)
            problem = divergence(row["loss"], row["grad_norm"], log.losses, model.config.text_config.vocab_size)
            if problem:
                checkpoints.wait()
                examples = ", ".join(data.ids[index] for index in data.order[step][:_MOST_LISTED])
                raise RunError(
                    f"{run_dir}: {problem} at step {step} (examples {examples}, ...); {checkpoints.last}; lower "
                    "recipe.lr"
                )
            trainer.update()
            lengths = [planner.lengths[index] for index in data.order[step]]
            meter.add(sum(lengths), pass_flops(model, lengths))
            log.add({**row, "tokens": sum(lengths), "elapsed_s": time.perf_counter() - started})
            report(step + 1, f"loss {row['loss']:.3f}, {meter.note}")
            if is_due or is_last:
                checkpoints.save(trainer.learner, trainer.optimizer, step + 1)
            if is_last:
                checkpoints.wait()
                termination.end()


@contextlib.contextmanager
def _ready_to_train(model: VisionLanguageModel, packs: bool, execution: Execution) -> Iterator[None]:
    """Put a model into training mode for the duration of the block; afterwards restore the frozen backbone's buffers.

    In the wiring ``as-published`` the backbone's batch norms drift during training; the drift is not saved.
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
