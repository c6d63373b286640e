"""One adaptation: train backbone and head together, resumably, and evaluate them.

The complete state is saved to one file from time to time, replaced atomically. A killed run resumes from it and, on a
CPU, ends with the same weights; kernels of a GPU may add in another order.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from eyeswap.adaptation.classifier import Classifier
from eyeswap.adaptation.data import DenseData
from eyeswap.adaptation.detector import Detector
from eyeswap.adaptation.evaluate import AdaptedNetwork, evaluate
from eyeswap.adaptation.recipe import AdaptationRecipe
from eyeswap.adaptation.samples import Samples, Targets, collate
from eyeswap.adaptation.segmentor import Segmentor
from eyeswap.backbones.base import VisionBackbone
from eyeswap.backbones.catalog import Objective
from eyeswap.errors import CheckpointError, EyeswapError, RunError
from eyeswap.files import atomic_path, read_torch_weights
from eyeswap.geometry import ImageGeometry
from eyeswap.processes import leave_sigterm_to_parent, termination
from eyeswap.training.step import learning_rate

NETWORKS: dict[Objective, type[AdaptedNetwork]] = {
    "classification": Classifier,
    "detection": Detector,
    "segmentation": Segmentor,
}
_SECONDS_BETWEEN_SAVES = 60.0
_STEPS_PER_POINT = 50  # of the loss curve
_MOST_AT_ONCE = 16  # validation images in a forward pass


class Adaptation:
    """A run of a recipe.

    Attributes:
        network: the backbone with its head, trained in place.
        step: completed steps.
        curve: ``(step, mean loss of the last 50 steps)``.
        seconds: training time, including that of earlier processes.
    """

    def __init__(
        self,
        objective: Objective,
        backbone: VisionBackbone,
        geometry: ImageGeometry,
        data: DenseData,
        recipe: AdaptationRecipe,
        *,
        run_digest: str = "",
        saved: Path | None = None,
        device: torch.device | None = None,
        workers: int = 0,
    ) -> None:
        """Start a run, or resume it from ``saved``.

        Args:
            objective: what to train for.
            backbone: the network with its pretrained weights, trainable.
            geometry: how an image becomes its input.
            data: annotated images.
            recipe: everything else that determines the result.
            run_digest: digest of all of these, by which ``saved`` is recognised.
            saved: file to save to and resume from; by default nothing is saved.
            device: device to train on; by default the CPU.
            workers: processes that read images; 0 reads them in this process.

        Raises:
            CheckpointError: if ``saved`` belongs to another run or is damaged.
        """
        self._device = device or torch.device("cpu")
        torch.manual_seed(recipe.seed)
        self.network = NETWORKS[objective](backbone, len(data.categories), recipe).to(self._device).train()
        self._geometry, self._data, self._recipe = geometry, data, recipe
        self._saved, self._digest, self._workers = saved, run_digest, workers
        self._optimizer = _optimizer(self.network, recipe)
        self.step, self.curve, self.seconds = 0, list[tuple[int, float]](), 0.0
        self._losses: list[float] = []
        if saved is not None and saved.exists():
            self._load(saved)

    @property
    def num_head_parameters(self) -> int:
        """Parameters of the head and its pyramid, which are not saved with the backbone."""
        total = sum(parameter.numel() for parameter in self.network.parameters())
        return total - self.network.backbone.num_parameters

    def train(self, report: Callable[[int, float], None] = lambda step, loss: None) -> None:
        """Train to the end; ``report`` is called after every step with the completed steps and the loss.

        Raises:
            DataError: if an image or annotation cannot be read; the run resumes once it is mended.
            RunError: if the loss is not finite.
            Terminated: after a save, if this process received SIGTERM.
        """
        last_save = time.monotonic()
        with termination.at_safe_points():
            for batch in self._loader():
                if isinstance(batch, EyeswapError):
                    self._save()
                    raise batch
                loss = self._take_step(*batch)
                report(self.step, loss)
                now, is_last = time.monotonic(), self.step == self._recipe.steps
                if is_last or termination.requested or now - last_save > _SECONDS_BETWEEN_SAVES:
                    self.seconds, last_save = self.seconds + now - last_save, now
                    self._save()
                if termination.requested:
                    termination.end()

    def evaluate(self, advance: Callable[[int], None] = lambda count: None) -> dict[str, float]:
        """Return the scores on the validation images, see `eyeswap.adaptation.evaluate`."""
        images = [self._data.val[index] for index in range(self.num_val_images)]
        batch = min(self._recipe.batch, _MOST_AT_ONCE)
        return evaluate(self.network, images, len(self._data.categories), self._geometry, batch, advance)

    @property
    def num_val_images(self) -> int:
        """How many validation images are evaluated."""
        return min(len(self._data.val), self._recipe.val_images or len(self._data.val))

    def _loader(self) -> DataLoader[Any]:
        """Return the batches from the current step on; the order is a function of the seed."""
        recipe, count = self._recipe, len(self._data.train)
        wanted = recipe.steps * recipe.batch
        rng = np.random.default_rng(recipe.seed)
        order = np.concatenate([rng.permutation(count) for _ in range(math.ceil(wanted / count))])[:wanted]
        samples = Samples(self._data.train, order.tolist(), self._geometry, recipe.seed if recipe.mirror else None)
        return DataLoader(
            samples,
            recipe.batch,
            sampler=range(self.step * recipe.batch, wanted),
            collate_fn=collate,
            num_workers=self._workers,
            worker_init_fn=leave_sigterm_to_parent,
            pin_memory=self._device.type == "cuda",
        )

    def _take_step(self, pixels: Tensor, targets: list[Targets]) -> float:
        recipe = self._recipe
        torch.manual_seed(int(np.random.SeedSequence([recipe.seed, self.step]).generate_state(1)[0]))
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(self.step, recipe.steps, group["peak"], recipe.warmup_fraction)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
            loss = self.network.loss(pixels.to(self._device), [each.to(self._device) for each in targets])
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), recipe.clip_norm)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise RunError(f"the loss is {value} at step {self.step}; lower lr and backbone_lr")
        self._optimizer.step()
        self._optimizer.zero_grad()
        self.step += 1
        self._losses = [*self._losses[1 - _STEPS_PER_POINT :], value]
        if self.step % _STEPS_PER_POINT == 0 or self.step == recipe.steps:
            self.curve.append((self.step, float(np.mean(self._losses))))
        return value

    def _save(self) -> None:
        if self._saved is None:
            return
        state = {
            "run": self._digest,
            "step": self.step,
            "network": self.network.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "losses": self._losses,
            "curve": self.curve,
            "seconds": self.seconds,
        }
        with atomic_path(self._saved) as temporary:
            torch.save(state, temporary)

    def _load(self, saved: Path) -> None:
        state = read_torch_weights(saved)
        if not isinstance(state, dict) or state.get("run") != self._digest:
            raise CheckpointError(f"{saved}: belongs to a run with other settings; delete it to start over")
        try:
            self.network.load_state_dict(state["network"])
            self._optimizer.load_state_dict(state["optimizer"])
            self.step, self._losses, self.seconds = state["step"], state["losses"], state["seconds"]
            self.curve = [(step, loss) for step, loss in state["curve"]]
            if not 0 <= self.step <= self._recipe.steps:
                raise ValueError(self.step)
        except (KeyError, RuntimeError, TypeError, ValueError):
            raise CheckpointError(f"{saved}: is damaged; delete it to start over") from None


def _optimizer(network: AdaptedNetwork, recipe: AdaptationRecipe) -> torch.optim.AdamW:
    """Return AdamW with an own peak rate for the backbone; ``peak`` of each group is scheduled before every step."""
    backbone = {id(parameter) for parameter in network.backbone.parameters()}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for parameter in network.parameters():
        groups.setdefault((id(parameter) in backbone, parameter.ndim > 1), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "peak": recipe.backbone_lr if is_backbone else recipe.lr,
                "weight_decay": recipe.weight_decay if is_matrix else 0.0,
            }
            for (is_backbone, is_matrix), parameters in groups.items()
        ],
        lr=0.0,
        fused=True,
    )
