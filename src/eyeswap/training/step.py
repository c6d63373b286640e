"""The optimizer, and one step of it in one process: gradients of its passes, summed over all processes; the update."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from eyeswap.processes import Ranks
from eyeswap.recipe import Recipe
from eyeswap.training.batches import Pass, TrainingData
from eyeswap.training.collate import Batch
from eyeswap.training.learner import Learner
from eyeswap.training.parallel import is_sharded, reduce_gradients, shard, whole
from eyeswap.vlm.model import VisionLanguageModel


@dataclass(frozen=True)
class Trainer:
    """What a step needs in one process.

    Attributes:
        learner: the model with its loss, sharded if processes share it.
        optimizer: of its trained parameters.
        data: what is trained on.
        recipe: schedule, clipping, precision.
        ranks: the processes.
        seed: of the random numbers that the model draws.
        reduces_once: whether gradients are summed over processes after the last pass alone.
    """

    learner: Learner
    optimizer: torch.optim.Optimizer
    data: TrainingData
    recipe: Recipe
    ranks: Ranks
    seed: int
    reduces_once: bool

    @classmethod
    def of(
        cls,
        model: VisionLanguageModel,
        data: TrainingData,
        recipe: Recipe,
        ranks: Ranks,
        seed: int,
        reduces_once: bool,
    ) -> Trainer:
        """Share a model out and build its optimiser; ``reduces_once`` counts where it is sharded."""
        learner = Learner(model)
        shard(learner, recipe, ranks)
        optimizer = build_optimizer(learner, recipe.weight_decay)
        return cls(learner, optimizer, data, recipe, ranks, seed, reduces_once and is_sharded(learner))

    def step(self, step: int, passes: Sequence[tuple[Pass, Batch]], wants: bool) -> tuple[dict[str, float], bool]:
        """Make the gradients of a step from this process's passes.

        Args:
            step: number of the step, from 0.
            passes: with their batches.
            wants: whether this process wants a checkpoint; the first one's wish counts.

        Returns:
            The log row, and whether there is to be a checkpoint.
        """
        rows = self.data.order[step]
        rate = learning_rate(step, len(self.data.order), self.recipe.lr, self.recipe.warmup_fraction)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        uses_images = any(self.data.images[row] is not None for row in rows)
        own = torch.zeros((), dtype=torch.float64, device=self.ranks.device)
        for number, (one, batch) in enumerate(passes):
            torch.manual_seed(_seed_of(self.seed, step, number * self.ranks.size + self.ranks.rank))
            if self.reduces_once:
                reduce_gradients(self.learner, number == len(passes) - 1)
            own += self._accumulate(one, batch, uses_images)
        loss, wanted = self.ranks.sum(float(own), float(wants and self.ranks.is_first))
        norm = whole(nn.utils.clip_grad_norm_(self.learner.parameters(), self.recipe.clip_norm))
        num_targets = int(self.data.conversations.num_targets[rows].sum())
        row = {"step": step, "loss": loss, "lr": rate, "grad_norm": float(norm), "answer_tokens": num_targets}
        return row, wanted > 0

    def update(self) -> None:
        """Take the step."""
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _accumulate(self, one: Pass, batch: Batch, uses_images: bool) -> Tensor:
        """Add the gradients of one pass; return its share of the loss, a scalar of shape ``[]``."""
        batch = batch.to(self.ranks.device)
        visual = None if batch.visual is None else self.data.source.encode(batch.visual, self.learner.vlm)
        casts = self.recipe.precision == "bf16" and not is_sharded(self.learner)
        with torch.autocast(self.ranks.device.type, torch.bfloat16, enabled=casts):
            summed = self.learner(batch, visual, uses_images)
        (summed * (one.share * self.ranks.size)).backward()  # sharding averages over processes
        counted: Tensor = summed.detach().double() * one.share  # left on the GPU, else it would be waited for here
        return counted


def _seed_of(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def build_optimizer(model: nn.Module, weight_decay: float) -> torch.optim.AdamW:
    """Return AdamW with decay on matrices only; biases, norms and other vectors have none (published recipe).

    The learning rate is set before every step by `learning_rate`. All moments exist from the start, so that a
    checkpoint has the same content at every step.
    """
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (plain if parameter.ndim <= 1 or name.endswith(".bias") else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    on_gpu = any(parameter.is_cuda for parameter in [*decayed, *plain])
    optimizer = torch.optim.AdamW(groups, lr=0.0, fused=on_gpu or None)
    for parameter in [*decayed, *plain]:
        optimizer.state[parameter] = {
            "step": torch.zeros((), device=parameter.device if on_gpu else "cpu"),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }
    return optimizer


def learning_rate(step: int, num_steps: int, peak: float, warmup_fraction: float) -> float:
    """Return the learning rate of a step: up linearly during warm-up, then down a half cosine to zero.

    Args:
        step: step number from 0.
        num_steps: steps of the whole run.
        peak: highest learning rate.
        warmup_fraction: share of the steps that warm up, rounded down.
    """
    warmup = math.floor(warmup_fraction * num_steps)
    if step < warmup:
        return peak * step / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, num_steps - warmup)))
