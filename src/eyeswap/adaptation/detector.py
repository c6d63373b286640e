"""An anchor-free detector: every cell of the pyramid scores all categories and predicts one box.

As in FCOS (Tian et al., arXiv 1904.01355), a cell near an object's centre regresses the distances from the cell's
centre to the four sides of the box. Two rules are simpler. An object belongs to the level of which its side spans about
four cells. And instead of a separate centre-ness, a cell learns the IoU of its own box as the score of the object's
category (quality focal loss, Li et al., arXiv 2006.04388, equation 2), so that scores rank boxes by how well they fit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eyeswap.adaptation.pyramid import FeaturePyramid, branch
from eyeswap.adaptation.recipe import AdaptationRecipe
from eyeswap.adaptation.samples import Targets
from eyeswap.backbones.base import VisionBackbone

_CELLS_PER_SIDE = 4.0  # of an object, on the level that it belongs to
_RADIUS = 1.5  # cells around an object's centre that learn the object
_FOCUS = 2.0  # exponent of the quality focal loss
_BOX_WEIGHT = 2.0  # of the box loss beside the score loss, as in Li et al.
_PRIOR = 0.01  # initial score of every category
_CANDIDATES = 300  # boxes of an image before suppression
_DETECTIONS = 100  # boxes of an image that count in COCO's protocol
_LEAST_SCORE = 0.01
_SUPPRESSION_IOU = 0.6


@dataclass(frozen=True)
class Cells:
    """The cells of all levels for one canvas, level by level and row by row.

    Attributes:
        centres: ``[M, 2]``, x and y in canvas pixels.
        strides: ``[M, 2]``, width and height of a cell in pixels.
        level: ``[M]``, the level of each cell.
    """

    centres: Tensor
    strides: Tensor
    level: Tensor


@dataclass(frozen=True)
class Detections:
    """Boxes ``[n, 4]`` in canvas pixels, their categories ``[n]`` and scores ``[n]``, best first."""

    boxes: Tensor
    classes: Tensor
    scores: Tensor


class Detector(nn.Module):
    """A backbone with pyramid and detection head; `loss` trains all of it."""

    def __init__(self, backbone: VisionBackbone, num_classes: int, recipe: AdaptationRecipe) -> None:
        super().__init__()
        self.pyramid = FeaturePyramid(backbone, recipe.width, recipe.scales)
        self.score_branch = branch(recipe.width, recipe.head_depth)
        self.box_branch = branch(recipe.width, recipe.head_depth)
        self.score = nn.Conv2d(recipe.width, num_classes, 3, padding=1)
        self.box = nn.Conv2d(recipe.width, 4, 3, padding=1)
        self.level_scale = nn.Parameter(torch.ones(len(recipe.scales)))
        for output, bias in ((self.score, -math.log(1 / _PRIOR - 1)), (self.box, math.log(_CELLS_PER_SIDE / 2))):
            nn.init.normal_(output.weight, std=0.01)
            nn.init.constant_(output.bias, bias)  # type: ignore[arg-type]  # both have one

    @property
    def backbone(self) -> VisionBackbone:
        """The backbone, without pyramid and head."""
        return self.pyramid.backbone

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor, Cells]:
        """Return logits ``[B, M, C]``, boxes ``[B, M, 4]`` in canvas pixels, both float32, and the cells."""
        canvas = pixel_values.shape[-2:]
        maps = self.pyramid(pixel_values)
        cells = make_cells([(level.shape[2], level.shape[3]) for level in maps], (canvas[0], canvas[1]), maps[0])
        logits = [self.score(self.score_branch(level)) for level in maps]
        raw = [self.level_scale[index] * self.box(self.box_branch(level)) for index, level in enumerate(maps)]
        distances = _rows(raw).clamp(max=6).exp() * cells.strides.repeat(1, 2)  # [B, M, 4]: left, top, right, bottom
        boxes = torch.cat([cells.centres - distances[..., :2], cells.centres + distances[..., 2:]], dim=2)
        return _rows(logits), boxes, cells

    def loss(self, pixel_values: Tensor, targets: Sequence[Targets]) -> Tensor:
        """Return the loss of a batch ``[B, 3, H, W]``: scores plus boxes, per cell that learns an object."""
        logits, boxes, cells = self(pixel_values)
        owners = torch.stack([assign(each.boxes, cells) for each in targets])  # [B, M]
        image, cell = (owners >= 0).nonzero(as_tuple=True)
        wanted = torch.zeros_like(logits)
        box_loss = boxes.sum() * 0.0  # for images without objects
        if len(image):
            owner = owners[image, cell].tolist()
            pairs = list(zip(image.tolist(), owner, strict=True))
            true_boxes = torch.stack([targets[row].boxes[column] for row, column in pairs])  # [P, 4]
            classes = torch.stack([targets[row].classes[column] for row, column in pairs])
            iou, giou = overlaps(boxes[image, cell], true_boxes)
            wanted[image, cell, classes] = iou.detach()
            box_loss = (1 - giou).sum()
        total: Tensor = quality_focal_loss(logits, wanted) + _BOX_WEIGHT * box_loss
        return total / max(1, len(image))

    @torch.no_grad()
    def predict(self, pixel_values: Tensor) -> list[Detections]:
        """Return the detections in each image of a batch ``[B, 3, H, W]``."""
        logits, boxes, _ = self(pixel_values)
        height, width = pixel_values.shape[-2:]
        edges = boxes.new_tensor([width, height, width, height])
        boxes = boxes.clamp(torch.zeros_like(edges), edges)
        return [_detections(*rows) for rows in zip(logits.sigmoid(), boxes, strict=True)]


def _rows(maps: Sequence[Tensor]) -> Tensor:
    """Join maps ``[B, C, h, w]`` into rows ``[B, M, C]`` of float32."""
    return torch.cat([level.flatten(2).transpose(1, 2).float() for level in maps], dim=1)


def make_cells(sizes: Sequence[tuple[int, int]], canvas: tuple[int, int], like: Tensor) -> Cells:
    """Return the cells of levels of these ``(rows, columns)``; each covers an equal share of the canvas.

    Args:
        sizes: rows and columns of every level.
        canvas: height and width in pixels.
        like: ``[...]``, gives the device.
    """
    centres, strides, levels = [], [], []
    for index, (rows, columns) in enumerate(sizes):
        stride = torch.tensor([canvas[1] / columns, canvas[0] / rows], device=like.device)
        y, x = torch.meshgrid(
            torch.arange(rows, device=like.device), torch.arange(columns, device=like.device), indexing="ij"
        )
        centres.append((torch.stack([x, y], dim=-1).flatten(0, 1) + 0.5) * stride)
        strides.append(stride.expand(rows * columns, 2))
        levels.append(torch.full((rows * columns,), index, device=like.device))
    return Cells(torch.cat(centres), torch.cat(strides), torch.cat(levels))


def assign(boxes: Tensor, cells: Cells) -> Tensor:
    """Return which object each cell learns, ``[M]``: its number, or -1 for none.

    A cell learns an object of its level whose box holds the cell's centre, at most 1.5 cells from the box's centre; if
    there are several, the smallest.

    Args:
        boxes: ``[n, 4]`` in canvas pixels.
        cells: the cells.
    """
    if not len(boxes):
        return torch.full_like(cells.level, -1)
    sides = boxes[:, 2:] - boxes[:, :2]  # [n, 2]
    areas = sides.prod(1)
    cell_sides = torch.stack(
        [cells.strides[cells.level == index][0].prod().sqrt() for index in range(int(cells.level.max()) + 1)]
    )
    level = (areas.sqrt() / (_CELLS_PER_SIDE * cell_sides[:, None])).log2().abs().argmin(0)  # [n]
    offset = cells.centres[:, None] - (boxes[:, :2] + boxes[:, 2:]) / 2  # [M, n, 2]
    is_near = (offset.abs() <= _RADIUS * cells.strides[:, None]).all(2)
    is_inside = (offset.abs() < sides / 2).all(2)
    candidates = is_near & is_inside & (cells.level[:, None] == level)
    cost = torch.where(candidates, areas, math.inf)  # [M, n]
    least, owner = cost.min(1)
    return owner.where(least.isfinite(), -1)


def overlaps(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Return IoU and generalised IoU (Rezatofighi et al., arXiv 1902.09630) of pairs of boxes, ``[n]`` each.

    Args:
        first: ``[n, 4]``.
        second: ``[n, 4]``, of positive area.
    """
    low, high = torch.maximum(first[:, :2], second[:, :2]), torch.minimum(first[:, 2:], second[:, 2:])
    shared = (high - low).clamp(min=0).prod(1)
    union = (first[:, 2:] - first[:, :2]).prod(1) + (second[:, 2:] - second[:, :2]).prod(1) - shared
    around = torch.maximum(first[:, 2:], second[:, 2:]) - torch.minimum(first[:, :2], second[:, :2])
    hull = around.prod(1)
    iou = shared / union
    return iou, iou - (hull - union) / hull


def quality_focal_loss(logits: Tensor, wanted: Tensor) -> Tensor:
    """Return the quality focal loss, summed: cross-entropy weighted by the squared distance from the wanted score.

    Args:
        logits: ``[B, M, C]``.
        wanted: ``[B, M, C]``, 0 to 1.
    """
    weight = (wanted - logits.sigmoid()).abs() ** _FOCUS
    return (weight * F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")).sum()


def _detections(scores: Tensor, boxes: Tensor) -> Detections:
    """Pick the detections of one image from scores ``[M, C]`` and boxes ``[M, 4]``."""
    num_classes = scores.shape[1]
    best, index = scores.flatten().topk(min(_CANDIDATES, scores.numel()))
    index = index[best > _LEAST_SCORE]
    best = best[: len(index)]
    boxes, classes = boxes[index // num_classes], index % num_classes
    kept = suppress(boxes, classes, _SUPPRESSION_IOU)[:_DETECTIONS]
    return Detections(boxes[kept], classes[kept], best[kept])


def suppress(boxes: Tensor, classes: Tensor, most_iou: float) -> Tensor:
    """Return which boxes are left by non-maximum suppression within each category.

    Args:
        boxes: ``[n, 4]``, best first.
        classes: ``[n]``.
        most_iou: a box that overlaps a better one of its category by more is dropped.

    Returns:
        ``[k]`` positions, best first.
    """
    count = len(boxes)
    first, second = boxes[:, None].expand(count, count, 4), boxes[None].expand(count, count, 4)
    iou, _ = overlaps(first.reshape(-1, 4), second.reshape(-1, 4))
    is_rival = (iou.view(count, count) > most_iou) & (classes[:, None] == classes)
    rivals = is_rival.cpu().numpy()
    is_kept = torch.ones(count, dtype=torch.bool).numpy()
    for position in range(count):
        if is_kept[position]:
            is_kept[position + 1 :] &= ~rivals[position, position + 1 :]
    return torch.from_numpy(is_kept.nonzero()[0]).to(boxes.device)
