"""Numbers about visual tokens that need no labels: their statistics, their nearness to words, and correspondence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from eyeswap.backbones.base import encode
from eyeswap.geometry import Placement
from eyeswap.probing.labelled import LabelledImages
from eyeswap.probing.readouts import token_centres

if TYPE_CHECKING:
    from eyeswap.backbones.weights import LoadedBackbone

_CROP = 0.75  # side of the second view, as a share of the image's


@dataclass(frozen=True)
class TokenStatistics:
    """What tokens look like as numbers.

    Attributes:
        norm: mean Euclidean norm.
        norm_spread: s.d. of norms over their mean; large where a few tokens stick out (Darcet et al. 2024).
        effective_rank: exponential of the entropy of the normalised eigenvalues of the covariance of all tokens (Roy
            and Vetterli 2007); between 1 and the width.
        spatial_autocorrelation: mean cosine of neighbouring tokens less that of all pairs in the image, after the mean
            token is taken off; 0 where a neighbour says no more than any other token.
    """

    norm: float
    norm_spread: float
    effective_rank: float
    spatial_autocorrelation: float


def token_statistics(tokens: Tensor, grid: tuple[int, int]) -> TokenStatistics:
    """Measure tokens ``[I, N, D]`` on a grid of rows and columns."""
    norms = tokens.norm(dim=-1)
    centred = tokens - tokens.mean(dim=(0, 1))
    flat = centred.flatten(0, 1).double()
    eigenvalues = torch.linalg.eigvalsh(flat.T @ flat / len(flat)).clamp_min(0)
    shares = eigenvalues / eigenvalues.sum().clamp_min(1e-12)
    entropy = -(shares * shares.clamp_min(1e-12).log()).sum()
    raster = F.normalize(centred, dim=-1).unflatten(1, grid)  # [I, h, w, D]
    beside = (raster[:, :, 1:] * raster[:, :, :-1]).sum(-1)
    below = (raster[:, 1:] * raster[:, :-1]).sum(-1)
    neighbours = torch.cat([beside.flatten(), below.flatten()]).mean() if max(grid) > 1 else torch.tensor(0.0)
    anywhere = raster.flatten(1, 2).mean(dim=1).square().sum(-1).mean()  # mean cosine of all pairs, self included
    return TokenStatistics(
        norm=float(norms.mean()),
        norm_spread=float(norms.std() / norms.mean().clamp_min(1e-12)),
        effective_rank=float(entropy.exp()),
        spatial_autocorrelation=float(neighbours - anywhere),
    )


def word_alignment(visual: Tensor, embeddings: Tensor) -> float:
    """Return the mean, over visual tokens behind the connector, of the largest cosine with any word embedding.

    Args:
        visual: ``[I, N, width]`` connector outputs.
        embeddings: ``[V, width]`` the LLM's input embeddings.
    """
    words = F.normalize(embeddings.float(), dim=-1)
    flat = F.normalize(visual.flatten(0, 1).float(), dim=-1)
    return float(torch.cat([(part @ words.T).amax(dim=-1) for part in flat.split(4096)]).mean())


def correspondence(
    backbone: LoadedBackbone, images: LabelledImages, first: Tensor, placements: tuple[Placement, ...], seed: int = 0
) -> float:
    """Return how often a token finds its own place again in another view of the same image.

    The second view is a random crop, of which the geometry is known. Every token of the first view whose place lies in
    the crop looks for the most similar token there; it is right if that one is at most one token away from its place,
    as in the correspondence score of Yang et al. (2024).

    Args:
        backbone: the backbone, on the device it works on.
        images: some images.
        first: their visual tokens, ``[I, N, D]``.
        placements: where they lie on the canvas.
        seed: of the crops.
    """
    geometry, device = backbone.geometry, next(backbone.network.parameters()).device
    rows, columns = backbone.network.token_grid(*geometry.canvas)
    centres = token_centres(rows, columns)
    right = asked = 0
    for number, (image, tokens, placement) in enumerate(zip(images.images, first, placements, strict=True)):
        picture = image.open()
        left, top, width, height = _crop(picture.size, np.random.default_rng([seed, number]))
        pixels, second = geometry.place(picture.crop((left, top, left + width, top + height)))
        with torch.inference_mode():
            others = encode(backbone.network, pixels[None].to(device))[0].float().cpu()
        places = _moved(centres, placement, second, (left, top))
        inside = ((places > 0) & (places < 1)).all(dim=1)
        content = second.content_box
        shown = torch.tensor(content) / torch.tensor([*second.canvas_size, *second.canvas_size])
        inside &= (places > shown[:2]).all(dim=1) & (places < shown[2:]).all(dim=1)
        if not bool(inside.any()):
            continue
        similar = F.normalize(tokens[inside], dim=-1) @ F.normalize(others, dim=-1).T
        apart = (centres[similar.argmax(dim=1)] - places[inside]).abs() * torch.tensor([columns, rows])
        right += int((apart.amax(dim=1) <= 1.0).sum())
        asked += int(inside.sum())
    return right / asked if asked else 0.0


def _crop(size: tuple[int, int], rng: np.random.Generator) -> tuple[int, int, int, int]:
    width, height = (max(1, round(side * _CROP)) for side in size)
    return int(rng.integers(size[0] - width + 1)), int(rng.integers(size[1] - height + 1)), width, height


def _moved(centres: Tensor, first: Placement, second: Placement, corner: tuple[int, int]) -> Tensor:
    """Map places in 0..1 of the first canvas to 0..1 of the second, whose image begins at ``corner`` of the first."""
    moved = []
    for x, y in centres.tolist():
        in_image = first.convert((x, y, x, y), "canvas-unit", "image")
        px, py = in_image[0] - corner[0], in_image[1] - corner[1]
        moved.append(second.convert((px, py, px, py), "image", "canvas-unit")[:2])
    return torch.tensor(moved)
