"""Blanked and shuffled images: no image stays in its place, and only the image changes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_evaluation import GEOMETRY, Cells, encoder, write_images

from eyeswap.errors import DataError
from eyeswap.evaluation.probes import BlankedImages, ShuffledImages, shuffle

NAMES = st.lists(st.text("abcdef", min_size=1, max_size=3), min_size=2, unique=True)


@given(NAMES)
def test_every_image_gets_another_and_each_is_shown_once(images: list[str]) -> None:
    shown = shuffle(images)
    assert set(shown) == set(shown.values()) == set(images)
    assert all(image != other for image, other in shown.items())
    assert shuffle([*reversed(images), images[0]]) == shown


def test_one_image_cannot_be_shuffled() -> None:
    with pytest.raises(DataError, match="at least two"):
        shuffle(["a.png", "a.png"])


def test_shuffled_images_have_the_tokens_of_those_shown(tmp_path: Path) -> None:
    write_images(tmp_path)
    images = ["0.png", "1.png", "2.png"]
    shown = {"0.png": "1.png", "1.png": "2.png", "2.png": "gone.png"}
    tokens, unreadable = ShuffledImages(encoder(tmp_path), shown).read(images)
    plain, _ = encoder(tmp_path).read(["1.png", "2.png"])
    assert all(torch.equal(a, b) for a, b in zip(tokens, plain, strict=True))
    assert list(unreadable) == ["2.png"]


def test_blanked_images_are_all_alike_and_unreadable_ones_stay_so(tmp_path: Path) -> None:
    write_images(tmp_path)
    blanked = BlankedImages(Cells(), GEOMETRY, tmp_path)
    tokens, unreadable = blanked.read(["0.png", "5.png", "gone.png"])
    assert torch.equal(tokens[0], tokens[1])
    assert tokens[0].abs().max() < 0.02  # the padding colour is the mean
    assert list(unreadable) == ["gone.png"]
