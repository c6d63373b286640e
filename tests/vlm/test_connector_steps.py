"""Connectors that change the number of tokens: what they compute, and that they learn."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from eyeswap.backbones.weights import load_backbone
from eyeswap.connector_name import ConnectorName
from eyeswap.errors import ShapeError, SpecError
from eyeswap.evaluation.generate import Generator, Request
from eyeswap.vlm.connector import build_connector
from eyeswap.vlm.connector_steps import positions
from eyeswap.vlm.model import VisionLanguageModel, load_llm

GRID = (5, 7)
KINDS = (
    "pool-2x2+gelu-mlp",
    "pool-3x2+linear",
    "pixel-shuffle-2+fused-gelu-mlp",
    "conv+gelu-mlp",
    "pool-2x2+conv+gelu-mlp",
    "resampler-6+gelu-mlp",
    "pixel-shuffle-2+resampler-3+linear",
)


def tokens(grid: tuple[int, int] = GRID, width: int = 8, images: int = 2) -> Tensor:
    return torch.randn(images, grid[0] * grid[1], width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", KINDS)
def test_a_connector_has_the_tokens_and_parameters_that_its_name_promises(kind: str) -> None:
    connector, name = build_connector(kind, 8, 16, seed=1, grid=GRID), ConnectorName.parse(kind)
    assert connector(tokens()).shape == (2, name.num_tokens(GRID), 16)
    assert connector.tokens_of(GRID) == name.num_tokens(GRID)
    assert sum(parameter.numel() for parameter in connector.parameters()) == name.parameters(8, 16)
    with pytest.raises(ShapeError, match="built for 5x7 visual tokens, got 34"):
        connector(tokens()[:, 1:])
    with pytest.raises(SpecError, match="built for a grid of"):
        connector.tokens_of((7, 5))


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_learns_and_gradients_are_right(kind: str) -> None:
    connector, seen = build_connector(kind, 8, 4, seed=1, grid=GRID).double(), tokens(images=1).double()
    connector(seen).square().sum().backward()
    silent = {name for name, one in connector.named_parameters() if one.grad is None or not one.grad.any()}
    assert silent <= {f"{number}.key.bias" for number in range(3)}  # softmax does not see what all keys share
    seen.requires_grad_()
    assert torch.autograd.gradcheck(lambda one: connector(one).sum(dim=(1, 2)), (seen,), fast_mode=True)


@pytest.mark.parametrize("kind", KINDS)
def test_first_weights_follow_the_seed_alone(kind: str) -> None:
    first, again, other = (build_connector(kind, 8, 16, seed, grid=GRID).state_dict() for seed in (1, 1, 2))
    assert all(first[key].equal(again[key]) for key in first)
    assert all("norm" in key or not first[key].equal(other[key]) for key in first)


def test_a_pool_averages_what_a_window_holds() -> None:
    seen = tokens(images=1)
    pooled = build_connector("pool-2x2+linear", 8, 16, seed=1, grid=GRID)[0](seen).unflatten(1, (3, 4))
    as_map = seen.unflatten(1, GRID)
    for row in range(3):
        for column in range(4):
            window = as_map[0, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            assert torch.allclose(pooled[0, row, column], window.mean(dim=(0, 1)), atol=1e-6)


def test_a_pixel_shuffle_keeps_every_number_once() -> None:
    seen = tokens(images=1)
    shuffled = build_connector("pixel-shuffle-2+linear", 8, 16, seed=1, grid=GRID)[0](seen)
    assert shuffled.shape == (1, 12, 32)
    kept = shuffled.flatten()[shuffled.flatten() != 0]
    assert kept.sort().values.equal(seen.flatten().sort().values)
    first = seen.unflatten(1, GRID)[0, :2, :2]  # [2, 2, d]
    assert shuffled[0, 0].sort().values.equal(first.flatten().sort().values)


def test_a_convolution_sees_the_neighbours_alone() -> None:
    step = build_connector("conv+linear", 8, 16, seed=1, grid=GRID)[0]
    seen = tokens(images=1)
    changed = seen.clone()
    changed[0, 0] += 1
    moved = (step(changed) - step(seen))[0].abs().sum(dim=1).unflatten(0, GRID) > 1e-6
    assert set(map(tuple, moved.nonzero().tolist())) == {(0, 0), (0, 1), (1, 0), (1, 1)}


def test_a_resampler_knows_where_tokens_lie() -> None:
    step = build_connector("resampler-6+linear", 8, 16, seed=1, grid=GRID)[0]
    seen = tokens(images=1)
    assert not torch.allclose(step(seen), step(seen.flip(1)), atol=1e-3)
    places = positions(GRID, 8, seen)
    assert len({tuple(place) for place in places.tolist()}) == 35
    assert places.shape == (35, 8)


def test_steps_need_a_grid_that_does_not_vary() -> None:
    with pytest.raises(SpecError, match="needs the grid of visual tokens, which varies here"):
        build_connector("pool-2x2+gelu-mlp", 8, 16, seed=1)


@pytest.mark.parametrize("kind", KINDS[::2])
def test_a_vlm_asks_saves_and_loads_with_fewer_tokens(kind: str, tiny_llm: Path, tmp_path: Path) -> None:
    backbone = load_backbone("digits-vit")
    llm, tokenizer, prompt = load_llm(tiny_llm)
    connector = build_connector(kind, 128, llm.config.hidden_size, 1, grid=backbone.token_grid)
    model = VisionLanguageModel.from_parts(llm, tokenizer, connector, prompt, backbone).eval()
    assert model.processor.num_visual_tokens == ConnectorName.parse(kind).num_tokens((8, 8))
    model.save(tmp_path / "vlm")
    loaded = VisionLanguageModel.load(tmp_path / "vlm")
    visual = tokens((8, 8), 128)
    asked = [[Request(model.prompt.question(text), (), 4) for text in ("How many?", "Hi")]] * 2
    for batch in (1, 8):
        first, second = (Generator(one, batch).answer(visual, asked) for one in (model, loaded))
        assert [[one.text for one in row] for row in first] == [[one.text for one in row] for row in second]
    inputs = loaded.processor(images=[Image.new("RGB", (90, 60), "red")], text=[model.prompt.question("Hi")])
    assert int((inputs["input_ids"] == model.config.image_token_id).sum()) == model.connector.num_tokens
    with torch.no_grad():
        logits = [one(**inputs).logits for one in (model, loaded)]
    assert logits[0].equal(logits[1])
    with pytest.raises(ShapeError, match="input_ids have room for"):
        loaded(input_ids=inputs["input_ids"][:, 2:], pixel_values=inputs["pixel_values"])
