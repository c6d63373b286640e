"""Adapt a backbone of the catalog to an objective: ``eyeswap adapt``.

The result is a safetensors file of the backbone alone under its official names, which the catalog's strict loader reads
like the weights it started from, and a card that says how it was made. Pyramid and head are dropped.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from eyeswap.adaptation.data import open_data
from eyeswap.adaptation.recipe import AdaptationRecipe
from eyeswap.adaptation.run import Adaptation
from eyeswap.adaptation.scores import require_pycocotools
from eyeswap.backbones import catalog
from eyeswap.backbones.base import VisionBackbone
from eyeswap.backbones.weights import LoadedBackbone, load_backbone
from eyeswap.errors import CheckpointError
from eyeswap.files import digest, read_json, write_json, write_safetensors
from eyeswap.processes import find_device, usable_cpus
from eyeswap.progress import progress
from eyeswap.runs.environment import environment
from eyeswap.training.vision import check_canvas

_MOST_WORKERS = 8


@dataclass(frozen=True)
class Request:
    """What to adapt, and to what.

    Attributes:
        objective: detection or segmentation, or classification as their control.
        backbone: name in the catalog.
        data: ``digits`` or a folder, see `open_data`.
        recipe: how to train.
        weights: weights to start from; None takes the backbone's own.
        tap: another tap.
        geometry: another geometry.
    """

    objective: catalog.Objective
    backbone: str
    data: str
    recipe: AdaptationRecipe
    weights: Path | None = None
    tap: str | None = None
    geometry: str | None = None

    @property
    def command(self) -> str:
        """The command line, without the folders of files; the card holds the recipe."""
        options = {
            "objective": self.objective,
            "backbone": self.backbone,
            "data": Path(self.data).name,
            "weights": None if self.weights is None else self.weights.name,
            "tap": self.tap,
            "geometry": self.geometry,
        }
        return " ".join(["eyeswap adapt", *(f"--{key} {value}" for key, value in options.items() if value)])


def adapt(
    request: Request, out_dir: Path, *, device: str = "", workers: int | None = None, console: Console | None = None
) -> tuple[Path, dict[str, Any]]:
    """Adapt a backbone; an interrupted run resumes where it stopped, and a finished one is not repeated.

    Args:
        request: what to adapt, and to what.
        out_dir: folder for ``<backbone>-<objective>.safetensors`` and ``.card.json``.
        device: device to train on; by default a GPU if there is one.
        workers: processes that read images; by default one fewer than there are CPUs, eight at most.
        console: where progress is shown.

    Returns:
        The path of the weights, and the card.

    Raises:
        SpecError: if the backbone, tap, geometry or device does not exist, or the canvas varies with the image.
        DataError: if the data are missing or not in their format.
        CheckpointError: if the weights do not fit, or ``out_dir`` holds the result of another run.
        EnvironmentProblem: if detection is asked for without pycocotools.
        RunError: if the loss is not finite.
    """
    chosen = find_device(device)
    entry = catalog.entry(request.backbone).with_changes(tap=request.tap, geometry=request.geometry)
    check_canvas(entry.name, entry.geometry)
    if request.objective == "detection":
        require_pycocotools()
    recipe = request.recipe
    data = open_data(request.data, request.objective, recipe.train_images)
    loaded = load_backbone(request.backbone, request.weights, tap=request.tap, geometry=request.geometry)
    card: dict[str, Any] = {
        "name": f"{entry.name}-{request.objective}",
        "command": request.command,
        "objective": request.objective,
        "backbone": loaded.record(),
        "data": {
            "source": data.source,
            "categories": len(data.categories),
            "train": len(data.train),
            "val": len(data.val),
            "digest": data.digest,
        },
        "recipe": recipe.model_dump(mode="json"),
    }
    run_digest = digest(card)
    path, card_path = out_dir / f"{card['name']}.safetensors", out_dir / f"{card['name']}.card.json"
    if card_path.exists():
        return path, _finished(card_path, run_digest)
    torch.set_flush_denormal(True)
    saved = out_dir / f"{card['name']}.unfinished.pt"
    run = Adaptation(
        request.objective,
        _trainable(entry, loaded),
        entry.geometry,
        data,
        recipe,
        run_digest=run_digest,
        saved=saved,
        device=chosen,
        workers=min(_MOST_WORKERS, usable_cpus() - 1) if workers is None else workers,
    )
    with progress(console) as board:
        task = board.task(f"adapt {card['name']}", recipe.steps, run.step)
        run.train(lambda step, loss: task.advance(1, note=f"loss {loss:.3f}"))
        images = board.task(f"evaluate {card['name']}", run.num_val_images)
        metrics = run.evaluate(images.advance)
    network = run.network.backbone.cpu()
    write_safetensors(
        path, {key: value.contiguous() for key, value in network.state_dict().items()}, metadata={"format": "pt"}
    )
    complete = {
        **card,
        "run_digest": run_digest,
        "metrics": {name: round(value, 4) for name, value in metrics.items()},
        "val_images": run.num_val_images,
        "head_parameters": run.num_head_parameters,
        "curve": [[step, round(loss, 4)] for step, loss in run.curve],
        "minutes": round(run.seconds / 60, 1),
        "device": torch.cuda.get_device_name(chosen) if chosen.type == "cuda" else chosen.type,
        "environment": environment().model_dump(mode="json"),
        "licence": entry.licence,
    }
    write_json(card_path, complete)
    saved.unlink(missing_ok=True)
    return path, complete


def _finished(card_path: Path, run_digest: str) -> dict[str, Any]:
    card = read_json(card_path)
    if not isinstance(card, dict) or card.get("run_digest") != run_digest:
        raise CheckpointError(f"{card_path}: is of a run with other settings; choose another --out, or delete it")
    return card


def _trainable(entry: catalog.BackboneEntry, loaded: LoadedBackbone) -> VisionBackbone:
    """Return a network with the loaded weights that is not frozen."""
    network = entry.build()
    network.load_state_dict(loaded.network.state_dict())
    return network
