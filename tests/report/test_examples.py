import base64
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from eyeswap.report.writers.examples import _embedded, choose_rows, read_truth


@given(st.integers(1, 60), st.integers(0, 40), st.floats(0, 1))
def test_as_many_rows_as_asked_for_none_twice(n, share, disagreement):
    generator = np.random.default_rng(n)
    first = generator.integers(0, 2, n).astype(float)
    second = np.where(generator.random(n) < disagreement, 1 - first, first)
    rows = choose_rows([first, second], share, seed=1)
    assert len(rows) == len(set(rows)) == min(share, n)


def test_half_of_the_rows_are_disagreements_where_there_are_enough():
    first, second = np.zeros(100), np.repeat([1.0, 0.0], [20, 80])
    rows = choose_rows([first, second], 12, seed=0)
    assert sum(row < 20 for row in rows) == 6
    assert rows == choose_rows([first, second], 12, seed=0)


@pytest.mark.parametrize(
    ("truth", "expected"),
    [
        ('"yes"', ("yes", None)),
        ("3", ("3", None)),
        ("plain words", ("plain words", None)),
        ('["red", "red", "dark red"]', ("red \N{MULTIPLICATION SIGN}2, dark red", None)),
        ("[0.1, 0.2, 0.30004, 0.4]", ("[0.10, 0.20, 0.30, 0.40]", [0.1, 0.2, 0.3, 0.4])),
    ],
)
def test_truth_is_read_as_label_answers_or_box(truth, expected):
    assert read_truth(truth) == expected


def test_a_large_image_is_shrunk_to_its_budget_and_keeps_its_ratio(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (900, 1600, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    image = _embedded(tmp_path / "noise.png", budget=20_000)
    content = base64.b64decode(image["uri"].removeprefix("data:image/jpeg;base64,"))
    assert len(content) <= 20_000
    small = Image.open(io.BytesIO(content))
    assert small.width / small.height == pytest.approx(1600 / 900, rel=0.02)
    assert (image["width"], image["height"]) == (1600, 900)
