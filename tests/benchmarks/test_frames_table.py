"""The table of frames on the collapse page: as the script prints it, and where a score is known beforehand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from benchmarks.validity.frames import (
    FRAMES,
    OCID,
    REFCOCO,
    answers,
    pairs_table,
    scores,
    share_correct,
    sizes_table,
)

from eyeswap.evaluation.boxes import iou

PAGE = (Path(__file__).parents[2] / "docs" / "collapse.md").read_text(encoding="utf-8")
ORIGINAL, PADDED = FRAMES[:2]


def test_the_page_has_what_the_script_prints() -> None:
    for line in [*pairs_table("perfect answers in", 0.0, 9), *sizes_table()]:
        assert line in PAGE.splitlines()


def test_a_perfect_model_is_right_in_its_own_frame_and_on_square_images_in_both() -> None:
    assert all(scores(REFCOCO, frame, parts=5)[frame] > 98 for frame in FRAMES)
    square = replace(REFCOCO, sizes={(640, 640): 1.0})
    assert scores(square, ORIGINAL, parts=5)[PADDED] == scores(square, ORIGINAL, parts=5)[ORIGINAL]


def test_an_imprecise_model_loses_more_to_another_frame() -> None:
    perfect, imprecise = (scores(REFCOCO, PADDED, error, 4) for error in (0.0, 0.15))
    assert imprecise[PADDED] - imprecise[ORIGINAL] > perfect[PADDED] - perfect[ORIGINAL] > 5
    assert scores(OCID, ORIGINAL, parts=5)["corner 1024, never enlarged"] == 0


def test_right_answers_are_those_of_the_scorer() -> None:
    truth = np.random.default_rng(0).uniform(0.1, 0.4, (50, 4)) + np.array([0, 0, 0.4, 0.4])
    told = answers(truth, 0.3)
    expected = np.mean([[iou(box, true) >= 0.5 for box, true in zip(each, truth, strict=True)] for each in told[::16]])
    assert share_correct(told[::16], truth, 0.5) == pytest.approx(expected)
