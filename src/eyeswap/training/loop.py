"""One-stage instruction tuning: connector and LLM learn, the backbone stays frozen.

The loop is a page. The loss is the exact mean over all answer tokens of the global batch, whatever the split into
micro-batches (``token-mean``); ``micro-batch-mean`` reproduces the published averaging of micro-batch means.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from eyeswap.data.collate import Encoded, collate
from eyeswap.data.tokens import TokenCache
from eyeswap.errors import RunError
from eyeswap.files import write_text
from eyeswap.recipe import Recipe
from eyeswap.training.checkpoint import load_checkpoint, save_checkpoint
from eyeswap.training.optimizer import build_optimizer, learning_rate
from eyeswap.vlm.model import VisionLanguageModel

_CHECKPOINT_EVERY_S = 15.0


def train(
    model: VisionLanguageModel,
    examples: Sequence[Encoded],
    images: Sequence[str],
    cache: TokenCache,
    order: npt.NDArray[np.int64],
    recipe: Recipe,
    run_dir: Path,
    digest: str,
    report: Callable[[int, float], None],
) -> None:
    """Train connector and LLM in place, resuming from the run's checkpoint if there is one.

    Args:
        model: the VLM; all its parameters are trained.
        examples: the encoded conversations.
        images: image of each conversation.
        cache: their visual tokens.
        order: ``[steps, batch]`` rows of each global batch.
        recipe: optimiser, schedule, precision, loss.
        run_dir: gets ``train.jsonl`` and ``checkpoints/``.
        digest: identifies recipe, data and arm; a checkpoint of another digest is refused.
        report: called after every step with the number of steps done and the loss.

    Raises:
        RunError: if the loss is not finite; the message names step and examples.
    """
    optimizer = build_optimizer(model, recipe.weight_decay)
    first = load_checkpoint(run_dir / "checkpoints", model, optimizer, digest)
    log = _open_log(run_dir / "train.jsonl", first)
    model.train()
    saved_at = time.perf_counter()
    started = saved_at - (log[-1]["elapsed_s"] if log else 0.0)
    for step in range(first, len(order)):
        rate = learning_rate(step, len(order), recipe.lr, recipe.warmup_fraction)
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss, num_tokens = _accumulate(model, order[step], examples, images, cache, recipe)
        if not math.isfinite(loss):
            rows = ", ".join(str(row) for row in order[step][:8])
            raise RunError(f"{run_dir}: loss is {loss} at step {step} (examples {rows}, ...); lower recipe.lr")
        norm = float(nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        elapsed = time.perf_counter() - started
        log.append(
            {
                "step": step,
                "loss": loss,
                "lr": rate,
                "grad_norm": norm,
                "answer_tokens": num_tokens,
                "elapsed_s": elapsed,
            }
        )
        report(step + 1, loss)
        if time.perf_counter() - saved_at > _CHECKPOINT_EVERY_S:
            _write_log(run_dir / "train.jsonl", log)
            save_checkpoint(run_dir / "checkpoints", model, optimizer, step + 1, digest)
            saved_at = time.perf_counter()
    _write_log(run_dir / "train.jsonl", log)
    model.eval()


def _accumulate(
    model: VisionLanguageModel,
    rows: npt.NDArray[np.int64],
    examples: Sequence[Encoded],
    images: Sequence[str],
    cache: TokenCache,
    recipe: Recipe,
) -> tuple[float, int]:
    """Add the gradients of one global batch; return its loss and its number of answer tokens."""
    size = recipe.micro_batch or len(rows)
    pad = int(model.tokenizer.pad_token_id or 0)
    parts = [rows[start : start + size] for start in range(0, len(rows), size)]
    targets = [sum(label >= 0 for row in part for label in examples[row].labels[1:]) for part in parts]
    total, all_tokens = 0.0, sum(targets)
    for part, count in zip(parts, targets, strict=True):
        ids, labels = collate([examples[row] for row in part], pad)
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bf16"):
            summed, _ = model.loss(cache[[images[row] for row in part]], ids, labels)
        share = 1 / all_tokens if recipe.loss == "token-mean" else 1 / (count * len(parts))
        (summed * share).backward()
        total += float(summed.detach()) * share
    return total, all_tokens


def _open_log(path: Path, first_step: int) -> list[dict[str, float]]:
    """Return the logged rows before ``first_step``; later ones belong to a lost part of an interrupted run."""
    if first_step == 0 or not path.is_file():
        return []
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [row for row in rows if row["step"] < first_step]


def _write_log(path: Path, rows: list[dict[str, float]]) -> None:
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
