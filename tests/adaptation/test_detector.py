"""The detector: which cells learn which object, its losses, and what is left of its boxes."""

from __future__ import annotations

import pytest
import torch

from eyeswap.adaptation.detector import Detector, assign, make_cells, overlaps, quality_focal_loss, suppress
from eyeswap.adaptation.recipe import load_recipe
from eyeswap.adaptation.samples import Targets
from eyeswap.backbones import catalog


def boxes(*rows: tuple[float, float, float, float]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float32).view(-1, 4)


CELLS = make_cells([(8, 8), (4, 4)], (64, 64), torch.empty(0))  # cells of 8 and 16 pixels


def test_cells_cover_the_canvas_in_equal_shares() -> None:
    assert len(CELLS.centres) == 64 + 16
    assert CELLS.centres[1].tolist() == [12, 4]
    assert CELLS.centres[64 + 4].tolist() == [8, 24]
    assert CELLS.strides[[0, 64]].tolist() == [[8, 8], [16, 16]]
    wide = make_cells([(1, 2)], (30, 50), torch.empty(0))
    assert wide.centres.tolist() == [[12.5, 15], [37.5, 15]]


def test_an_object_is_learnt_around_its_centre_on_the_level_of_its_size() -> None:
    owners = assign(boxes((12, 12, 44, 44)), CELLS)  # 32 pixels: four cells of the fine level
    fine = owners[:64].view(8, 8)
    assert (owners[64:] == -1).all()
    near = {(row, column) for row, column in (fine == 0).nonzero().tolist()}
    assert near == {(row, column) for row in (2, 3, 4) for column in (2, 3, 4)}  # centres 20 to 36, the object's is 28
    assert (assign(boxes((0, 0, 64, 64)), CELLS)[:64] == -1).all()  # 64 pixels: four cells of the coarse level
    assert (assign(boxes(), CELLS) == -1).all()


def test_the_smaller_of_two_objects_gets_a_cell_that_both_want() -> None:
    owners = assign(boxes((8, 8, 40, 40), (16, 16, 32, 32)), CELLS)
    assert owners[2 * 8 + 2] == 1  # centre (20, 20) is near both centres (24, 24)


def test_overlaps_are_those_worked_out_by_hand() -> None:
    first = boxes((0, 0, 2, 2), (0, 0, 1, 1), (0, 0, 2, 2))
    second = boxes((1, 0, 3, 2), (3, 0, 4, 1), (0, 0, 2, 2))
    iou, giou = overlaps(first, second)
    torch.testing.assert_close(iou, torch.tensor([1 / 3, 0.0, 1.0]))
    torch.testing.assert_close(giou, torch.tensor([1 / 3, -0.5, 1.0]))  # hulls 6, 4 and 4


def test_the_score_loss_is_least_at_the_wanted_score() -> None:
    wanted = torch.full((1, 1, 1), 0.7)
    logits = torch.linspace(-4, 4, 81).view(-1, 1, 1, 1)
    losses = torch.stack([quality_focal_loss(logit, wanted) for logit in logits])
    assert logits[losses.argmin()].sigmoid().item() == pytest.approx(0.7, abs=0.02)


def test_suppression_keeps_the_best_of_a_category() -> None:
    rows = boxes((0, 0, 10, 10), (1, 0, 11, 10), (1, 0, 11, 10), (20, 0, 30, 10), (2, 0, 12, 10))
    classes = torch.tensor([3, 3, 5, 3, 3])
    assert suppress(rows, classes, 0.6).tolist() == [0, 2, 3]
    assert suppress(boxes(), torch.empty(0, dtype=torch.int64), 0.6).tolist() == []


@pytest.fixture(scope="module")
def detector() -> Detector:
    torch.manual_seed(0)
    recipe = load_recipe("detection", changes={"width": 16, "head_depth": 1})
    return Detector(catalog.entry("digits-vit").build(), 13, recipe)


def test_a_batch_without_objects_has_a_loss_and_a_gradient(detector: Detector) -> None:
    empty = Targets(boxes(), torch.empty(0, dtype=torch.int64))
    loss = detector.loss(torch.randn(2, 3, 64, 64), [empty, empty])
    loss.backward()
    assert loss.isfinite()
    assert all(parameter.grad is not None for parameter in detector.parameters())
    detector.zero_grad()


def test_a_new_detector_scores_every_category_low_and_its_boxes_span_four_cells(detector: Detector) -> None:
    logits, predicted, cells = detector(torch.randn(1, 3, 64, 64))
    assert logits.shape == (1, 64 + 16 + 4, 13)
    assert logits.sigmoid().mean().item() == pytest.approx(0.01, abs=0.003)
    sides = (predicted[0, :, 2:] - predicted[0, :, :2]) / cells.strides
    assert sides.mean().item() == pytest.approx(4, abs=0.3)
