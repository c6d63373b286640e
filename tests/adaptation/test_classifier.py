"""The classifier that is the control of detection and segmentation."""

from __future__ import annotations

import pytest
import torch

from eyeswap.adaptation.classifier import Classifier
from eyeswap.adaptation.recipe import load_recipe
from eyeswap.adaptation.samples import Targets
from eyeswap.backbones import catalog


def targets(*classes: int) -> Targets:
    return Targets(torch.zeros(len(classes), 4), torch.tensor(classes, dtype=torch.int64))


def test_the_loss_is_the_entropy_of_the_shares_where_the_scores_are_right() -> None:
    network = Classifier(catalog.entry("digits-vit").build(), 4, load_recipe("classification"))
    with torch.no_grad():
        network.score.weight.zero_()
        network.score.bias.copy_(torch.tensor([0.0, -50, 0, -50]))
    pixels = torch.randn(2, 3, 64, 64)
    right = network.loss(pixels, [targets(0, 2), targets(2, 0, 0)])  # two categories, whatever their number of objects
    assert right.item() == pytest.approx(torch.tensor(2.0).log().item(), abs=1e-4)
    assert network.loss(pixels, [targets(0), targets(1)]).item() > right.item()
    assert network.loss(pixels, [targets(), targets()]).item() == 0
