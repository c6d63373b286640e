"""How well frozen weights classify, as their authors or their cards report it."""

from __future__ import annotations

from importlib import resources

from eyeswap.backbones import catalog
from eyeswap.backbones.catalog import BackboneEntry
from eyeswap.files import parse_json

IMAGENET = "ImageNet-1K top-1 accuracy"
DIGITS = "top-1 accuracy of the pretraining on digits"
FAR_BELOW = 10.0  # points below the best: a confound of any comparison


def published_accuracy(backbone: str) -> tuple[str, float] | None:
    """Return which accuracy the backbone's authors report and its value in percent; None if they report none."""
    entry = catalog.find(backbone)
    if entry is None:
        return None
    if entry.top1 is not None:
        return IMAGENET, entry.top1
    return _accuracy_on_card(entry) if entry.weights.packaged else None


def _accuracy_on_card(entry: BackboneEntry) -> tuple[str, float] | None:
    card = resources.files("eyeswap") / "checkpoints" / f"{entry.name}.card.json"
    if not card.is_file():
        return None
    return DIGITS, 100 * float(parse_json(card.read_text(encoding="utf-8"))["metrics"]["top1_accuracy"])
