from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from eyeswap.backbones.base import VisionBackbone
from eyeswap.data.tokens import cache_tokens
from eyeswap.errors import DataError
from eyeswap.geometry import ImageGeometry

GEOMETRY = ImageGeometry(strategy="squash", canvas=(8, 8))


class Pooling(VisionBackbone):
    """Mean colour of each quarter of the image."""

    embed_dim = 3
    calls = 0

    def feature_map(self, pixel_values: Tensor) -> Tensor:
        Pooling.calls += 1
        return torch.nn.functional.adaptive_avg_pool2d(pixel_values, 2).permute(0, 2, 3, 1)

    def token_grid(self, height: int, width: int) -> tuple[int, int]:
        return 2, 2


@pytest.fixture
def images(tmp_path: Path) -> list[str]:
    for number in range(5):
        Image.fromarray(np.full((9, 7, 3), number * 50, np.uint8)).save(tmp_path / f"{number}.png")
    return [f"{number}.png" for number in range(5)]


def test_tokens_are_computed_once_and_come_in_the_order_asked_for(tmp_path: Path, images: list[str]):
    cache = cache_tokens(tmp_path / "cache", Pooling(), GEOMETRY, "w", tmp_path, images, "d")
    calls = Pooling.calls
    again = cache_tokens(tmp_path / "cache", Pooling(), GEOMETRY, "w", tmp_path, images, "d")
    assert Pooling.calls == calls
    assert cache[["3.png", "0.png"]].shape == (2, 4, 3)
    assert cache[["3.png"]].equal(again[["3.png"]])
    assert cache[["4.png"]].mean() > cache[["0.png"]].mean()


def test_other_weights_geometry_or_data_are_another_cache(tmp_path: Path, images: list[str]):
    squash = ImageGeometry(strategy="squash", canvas=(16, 16))
    for geometry, weights, data in [
        (GEOMETRY, "w", "d"),
        (GEOMETRY, "v", "d"),
        (squash, "w", "d"),
        (GEOMETRY, "w", "e"),
    ]:
        cache_tokens(tmp_path / "cache", Pooling(), geometry, weights, tmp_path, images, data)
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 4


def test_an_unreadable_image_is_named_and_nothing_is_left_behind(tmp_path: Path, images: list[str]):
    (tmp_path / "2.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"2\.png"):
        cache_tokens(tmp_path / "cache", Pooling(), GEOMETRY, "w", tmp_path, images, "d")
    assert not list((tmp_path / "cache").glob("*"))
