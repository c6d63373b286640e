from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from eyeswap.backbones import catalog
from eyeswap.backbones.base import VisionBackbone
from eyeswap.backbones.weights import LoadedBackbone
from eyeswap.errors import DataError
from eyeswap.geometry import ImageGeometry
from eyeswap.tokens import cache as token_cache
from eyeswap.tokens.cache import ImageEncoder, StoredImages, cache_tokens

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


def loaded(network: VisionBackbone, geometry: ImageGeometry = GEOMETRY, weights: str = "w") -> LoadedBackbone:
    return LoadedBackbone("pooling", "own", network, geometry, weights)


POOLING = loaded(Pooling())


@pytest.fixture
def images(tmp_path: Path) -> list[str]:
    for number in range(5):
        Image.fromarray(np.full((9, 7, 3), number * 50, np.uint8)).save(tmp_path / f"{number}.png")
    return [f"{number}.png" for number in range(5)]


def test_tokens_are_computed_once_and_come_in_the_order_asked_for(tmp_path: Path, images: list[str]):
    cache = cache_tokens(tmp_path / "cache", POOLING, tmp_path, images)
    calls = Pooling.calls
    again = cache_tokens(tmp_path / "cache", POOLING, tmp_path, images)
    assert Pooling.calls == calls
    assert cache[["3.png", "0.png"]].shape == (2, 4, 3)
    assert cache[["3.png"]].equal(again[["3.png"]])
    assert cache[["4.png"]].mean() > cache[["0.png"]].mean()


def stores(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir())


def test_other_weights_taps_or_geometries_are_another_store(tmp_path: Path, images: list[str]):
    squash = ImageGeometry(strategy="squash", canvas=(16, 16))
    entry = catalog.entry("digits-vit")
    for one in (
        POOLING,
        loaded(Pooling(), weights="v"),
        loaded(Pooling(), squash),
        replace(POOLING, tap="1"),
        replace(POOLING, entry=entry),
        replace(POOLING, entry=entry.with_changes(tap="-1")),
    ):
        cache_tokens(tmp_path / "cache", one, tmp_path, images)
    assert len(stores(tmp_path / "cache")) == 6
    cache_tokens(tmp_path / "cache", replace(POOLING, name="another name"), tmp_path, images)
    assert len(stores(tmp_path / "cache")) == 6


@pytest.mark.parametrize("changed", ["code", "torch", "pillow", "timm", "precision"])
def test_whatever_makes_tokens_is_part_of_the_key(
    tmp_path: Path, images: list[str], monkeypatch: pytest.MonkeyPatch, changed: str
):
    network = Pooling()
    network.bias = torch.nn.Parameter(torch.zeros(1))
    first = cache_tokens(tmp_path / "cache", loaded(network), tmp_path, images)
    if changed == "code":
        monkeypatch.setattr(token_cache, "code_version", lambda *parts: "new code")
    elif changed == "precision":
        network.to(torch.bfloat16)
    else:
        monkeypatch.setattr(token_cache, "version_of", lambda package: "99" if package == changed else "1")
    again = cache_tokens(tmp_path / "cache", loaded(network), tmp_path, images)
    assert len(stores(tmp_path / "cache")) == 2
    assert first[images].equal(again[images])


def test_an_unreadable_image_is_recorded_and_the_others_are_there(tmp_path: Path, images: list[str]):
    whole = cache_tokens(tmp_path / "cache", POOLING, tmp_path, images)
    (tmp_path / "2.png").write_bytes(b"no image")
    (tmp_path / "3.png").unlink()
    cache = cache_tokens(tmp_path / "other", POOLING, tmp_path, images)
    tokens, unreadable = cache.read(images)
    assert [image for image in images if image not in unreadable] == ["0.png", "1.png", "4.png"]
    assert torch.stack(tokens).equal(whole[["0.png", "1.png", "4.png"]])
    assert "2.png: not a readable image" in unreadable["2.png"]
    assert "3.png: no such image" in unreadable["3.png"]
    with pytest.raises(DataError, match=r"2\.png: not a readable image.*and 1 more"):
        cache.require(images)
    with pytest.raises(DataError, match=r"3\.png"):
        cache[["0.png", "3.png"]]


def test_an_image_that_was_mended_is_read_at_the_next_start(tmp_path: Path, images: list[str]):
    good = (tmp_path / "2.png").read_bytes()
    (tmp_path / "2.png").write_bytes(b"no image")
    for _ in range(2):
        cache = cache_tokens(tmp_path / "cache", POOLING, tmp_path, images)
        assert set(cache.unreadable) == {"2.png"}
    (tmp_path / "2.png").write_bytes(good)
    cache = cache_tokens(tmp_path / "cache", POOLING, tmp_path, images)
    assert not cache.unreadable
    assert cache[["2.png"]].abs().sum() > 0
    again = cache_tokens(tmp_path / "cache", POOLING, tmp_path, images)
    assert not again.unreadable


def test_if_no_image_can_be_read_that_is_an_error_and_nothing_is_left_behind(tmp_path: Path, images: list[str]):
    for image in images:
        (tmp_path / image).write_bytes(b"no image")
    with pytest.raises(DataError, match=r"0\.png"):
        cache_tokens(tmp_path / "cache", POOLING, tmp_path, images)
    assert not stores(tmp_path / "cache")


def test_the_backbone_itself_gives_the_tokens_of_the_cache(tmp_path: Path, images: list[str]):
    cache = cache_tokens(tmp_path / "cache", POOLING, tmp_path, images)
    (tmp_path / "1.png").unlink()
    tokens, unreadable = ImageEncoder(Pooling(), GEOMETRY, tmp_path).read(["4.png", "1.png", "0.png"])
    assert torch.stack(tokens).equal(cache[["4.png", "0.png"]])
    assert list(unreadable) == ["1.png"]


def test_stored_images_are_read_and_only_the_others_encoded(tmp_path: Path, images: list[str]):
    cache_tokens(tmp_path / "cache", POOLING, tmp_path, images[:3])
    (tmp_path / "broken.png").write_bytes(b"no image")
    asked = ["4.png", "2.png", "broken.png", "gone.png", "0.png"]
    encoder = ImageEncoder(Pooling(), GEOMETRY, tmp_path)
    expected, reasons = encoder.read(asked)
    Pooling.calls = 0
    found, unreadable = StoredImages(encoder, tmp_path / "cache", POOLING).read(asked)
    assert Pooling.calls == 1
    assert len(found) == 3
    assert all(one.equal(other) for one, other in zip(found, expected, strict=True))
    assert unreadable == reasons
    before = sorted(path.name for path in (tmp_path / "cache").rglob("*"))
    Pooling.calls = 0
    StoredImages(encoder, tmp_path / "cache", POOLING).read(images[:3])
    assert Pooling.calls == 0
    other = loaded(Pooling(), weights="others")
    assert len(StoredImages(encoder, tmp_path / "cache", other).read(images)[0]) == 5
    assert sorted(path.name for path in (tmp_path / "cache").rglob("*")) == before


def test_canvases_that_vary_are_encoded_but_not_cached(tmp_path: Path, images: list[str]):
    Image.fromarray(np.zeros((9, 90, 3), np.uint8)).save(tmp_path / "wide.png")
    varying = ImageGeometry(strategy="keep-ratio", canvas=(32, 96))

    class Cells(Pooling):
        def feature_map(self, pixel_values: Tensor) -> Tensor:
            return torch.nn.functional.avg_pool2d(pixel_values, 32).permute(0, 2, 3, 1)

        def token_grid(self, height: int, width: int) -> tuple[int, int]:
            return height // 32, width // 32

    mixed = ["wide.png", "1.png", "2.png"]
    tokens, _ = ImageEncoder(Cells(), varying, tmp_path).read(mixed)
    assert [len(one) for one in tokens] == [3, 2, 2]
    with pytest.raises(DataError, match=r"1\.png: 2 visual tokens, others have 3"):
        cache_tokens(tmp_path / "cache", loaded(Cells(), varying), tmp_path, mixed)


def test_equal_files_are_encoded_once_and_a_changed_file_anew(tmp_path: Path, images: list[str]):
    (tmp_path / "copies").mkdir()
    (tmp_path / "copies" / "again.png").write_bytes((tmp_path / "3.png").read_bytes())
    cache = cache_tokens(tmp_path / "cache", POOLING, tmp_path, [*images, "copies/again.png"])
    assert len(cache.tokens) == 5
    assert cache[["copies/again.png"]].equal(cache[["3.png"]])
    calls = Pooling.calls
    moved = cache_tokens(tmp_path / "cache", POOLING, tmp_path / "copies", ["again.png"])
    assert Pooling.calls == calls
    assert moved[["again.png"]].equal(cache[["3.png"]])
    Image.new("RGB", (9, 7), (1, 2, 3)).save(tmp_path / "3.png")
    changed = cache_tokens(tmp_path / "cache", POOLING, tmp_path, images)
    assert len(changed.tokens) == 6
    assert not changed[["3.png"]].equal(cache[["3.png"]])
    assert changed[["4.png"]].equal(cache[["4.png"]])


def test_an_interrupted_cache_goes_on_where_it_stopped(tmp_path: Path, images: list[str], monkeypatch):
    monkeypatch.setattr("eyeswap.tokens.cache._BATCH", 2)
    whole = cache_tokens(tmp_path / "whole", POOLING, tmp_path, images)
    done = 0

    def stop(count: int) -> None:
        nonlocal done
        done += count
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache_tokens(tmp_path / "cut", POOLING, tmp_path, images, stop)
    calls = Pooling.calls
    again = cache_tokens(tmp_path / "cut", POOLING, tmp_path, images)
    assert Pooling.calls == calls + 1  # the last image
    assert np.array_equal(again.tokens, whole.tokens)


def test_tokens_that_float16_cannot_hold_are_refused(tmp_path: Path, images: list[str]):
    class Loud(Pooling):
        def feature_map(self, pixel_values: Tensor) -> Tensor:
            return super().feature_map(pixel_values) * 1e6

    with pytest.raises(DataError, match=r"0\.png: visual tokens are not finite, or beyond float16's range"):
        cache_tokens(tmp_path / "cache", loaded(Loud()), tmp_path, images)
    assert not stores(tmp_path / "cache")
