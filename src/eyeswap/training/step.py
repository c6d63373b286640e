"""One optimizer step: gradients of this process's passes, summed over all processes, and the update."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from eyeswap.processes import Ranks
from eyeswap.recipe import Align, Recipe
from eyeswap.training.batches import Pass, TrainingData
from eyeswap.training.collate import Batch
from eyeswap.training.learner import Learner
from eyeswap.training.parallel import clip_gradients, is_sharded, mesh_of, reduce_gradients, shard
from eyeswap.vlm.deferred import DeferredWeights
from eyeswap.vlm.model import VisionLanguageModel


@dataclass(frozen=True)
class Trainer:
    """Takes optimizer steps in one process.

    Attributes:
        learner: the model with its loss, sharded if several processes train it.
        optimizer: optimizer of its trained parameters.
        data: the training data.
        recipe: schedule, clipping and precision.
        ranks: the processes.
        seed: seed of the random numbers that the model draws.
        reduces_once: whether gradients are summed over processes only after the last pass.
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
        weights: DeferredWeights | None = None,
        shard_over: int | None = None,
    ) -> Trainer:
        """Shard a model and build its optimizer; the last three only matter in a group."""
        learner = Learner(model)
        shard(learner, recipe, ranks.device, mesh_of(ranks, shard_over), weights)
        scale = 1.0 if recipe.tuned is None else recipe.tuned.lr / recipe.lr
        optimizer = build_optimizer(learner, recipe.weight_decay, scale)
        return cls(learner, optimizer, data, recipe, ranks, seed, reduces_once and is_sharded(learner))

    def step(
        self, step: int, passes: Sequence[tuple[Pass, Batch]], is_due: bool, is_last: bool = False
    ) -> tuple[dict[str, float], bool, bool]:
        """Compute the gradients of a step from this process's passes.

        Args:
            step: number of the step, from 0.
            passes: this process's passes with their batches.
            is_due: whether a checkpoint is due; the first process's value decides for all.
            is_last: whether this process must end after this step; then all do.

        Returns:
            The log row, whether to write a checkpoint, and whether all processes end after this step.
        """
        rows = self.data.order[step]
        recipe, num_steps = self.recipe, len(self.data.order)
        rate = staged_rate(step, num_steps, recipe.lr, recipe.warmup_fraction, recipe.aligned)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["scale"]
        uses_images = any(self.data.images[row] is not None for row in rows)
        own_loss = torch.zeros((), dtype=torch.float64, device=self.ranks.device)
        for number, (planned, batch) in enumerate(passes):
            torch.manual_seed(_combined_seed(self.seed, step, number * self.ranks.size + self.ranks.rank))
            if self.reduces_once:
                reduce_gradients(self.learner, number == len(passes) - 1)
            own_loss += self._accumulate(planned, batch, uses_images)
        if step < align_steps(num_steps, recipe.aligned):
            for parameter in (*self.learner.vlm.llm.parameters(), *self.learner.tuned.parameters()):
                parameter.grad = None  # the optimizer then skips it, moments included
        sums = self.ranks.sum(float(own_loss), float(is_due and self.ranks.is_first), float(is_last))
        loss, is_due_in_first, num_ending = sums
        norm = clip_gradients(self.learner, self.recipe.clip_norm)
        num_targets = int(self.data.conversations.num_targets[rows].sum())
        row = {"step": step, "loss": loss, "lr": rate, "grad_norm": norm, "answer_tokens": num_targets}
        return row, is_due_in_first > 0, num_ending > 0

    def update(self) -> None:
        """Apply the gradients."""
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _accumulate(self, planned: Pass, batch: Batch, uses_images: bool) -> Tensor:
        """Add the gradients of one pass; return its share of the loss, a scalar of shape ``[]``."""
        batch = batch.to(self.ranks.device)
        visual = None if batch.visual is None else self.data.source.encode(batch.visual, self.learner.vlm)
        casts = self.recipe.precision == "bf16" and not is_sharded(self.learner)
        with torch.autocast(self.ranks.device.type, torch.bfloat16, enabled=casts):
            summed = self.learner(batch, visual, uses_images)
        (summed * (planned.share * self.ranks.size)).backward()  # FSDP averages over processes; this makes it a sum
        share_of_loss: Tensor = summed.detach().double() * planned.share  # stays on the GPU to avoid a synchronization
        return share_of_loss


def _combined_seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def build_optimizer(model: nn.Module, weight_decay: float, tuned_scale: float = 1.0) -> torch.optim.AdamW:
    """Return AdamW with weight decay on matrices only, not on biases, norms and other vectors (published recipe).

    The learning rate is set before every step by `learning_rate`. All moments are created here, so that a checkpoint
    has the same content at every step.

    Args:
        model: a learner, or another module.
        weight_decay: of matrices.
        tuned_scale: learning rate of the learner's blocks of the backbone, relative to that of all other parameters.
    """
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    groups = []
    for is_tuned, scale in ((False, 1.0), (True, tuned_scale)):
        part = [(name, parameter) for name, parameter in named if name.startswith("tuned.") == is_tuned]
        plain = [parameter for name, parameter in part if parameter.ndim <= 1 or name.endswith(".bias")]
        known = set(plain)
        matrices = [parameter for _, parameter in part if parameter not in known]
        if part or not is_tuned:
            groups += [
                {"params": matrices, "weight_decay": weight_decay, "scale": scale},
                {"params": plain, "weight_decay": 0.0, "scale": scale},
            ]
    on_gpu = any(parameter.is_cuda for _, parameter in named)
    optimizer = torch.optim.AdamW(groups, lr=0.0, fused=on_gpu or None)
    for _, parameter in named:
        optimizer.state[parameter] = {
            "step": torch.zeros((), device=parameter.device if on_gpu else "cpu"),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }
    return optimizer


def align_steps(num_steps: int, align: Align | None) -> int:
    """Return how many steps the connector learns alone, of so many; at least one, if there is such a stage."""
    return 0 if align is None else min(num_steps, max(1, round(align.share * num_steps)))


def staged_rate(step: int, num_steps: int, peak: float, warmup_fraction: float, align: Align | None) -> float:
    """Return the learning rate of a step in its stage; arguments as in `learning_rate`, ``align`` the first of two."""
    first = align_steps(num_steps, align)
    if align is not None and step < first:
        return learning_rate(step, first, align.lr, warmup_fraction)
    return learning_rate(step - first, num_steps - first, peak, warmup_fraction)


def learning_rate(step: int, num_steps: int, peak: float, warmup_fraction: float) -> float:
    """Return the learning rate of a step: linear warm-up, then cosine decay to zero.

    Args:
        step: step number from 0.
        num_steps: number of steps of the run.
        peak: peak learning rate.
        warmup_fraction: share of the steps in warm-up; the number of steps is rounded down.
    """
    warmup = math.floor(warmup_fraction * num_steps)
    if step < warmup:
        return peak * step / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, num_steps - warmup)))
