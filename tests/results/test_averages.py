"""The weights of the averages are those of the published study."""

from __future__ import annotations

import numpy as np
import pytest

from eyeswap.evaluation import BENCHMARKS
from eyeswap.results.averages import Piece, average, gain, members, pieces

# (VQA, localization, overall) of the eight released models.
PUBLISHED = {
    "ViT-S 224": (57.25, 17.82, 51.95),
    "MaxViT-T 224": (58.75, 15.79, 52.98),
    "MambaVision-B 224": (56.53, 31.17, 53.12),
    "VMamba-S 224": (62.39, 39.17, 59.27),
    "ViTDet-B 1024": (63.00, 43.74, 60.42),
    "VMamba-S COCO": (62.78, 47.94, 60.78),
    "ViT-Adapter ADE": (60.69, 33.77, 57.07),
    "VMamba-S ADE": (63.21, 44.98, 60.76),
}
COLUMNS = list(BENCHMARKS.values())


def column(name: str, percent: float, num_examples: int = 1, subset: str = "all") -> list[Piece]:
    scores = np.full(num_examples, percent / 100)
    images = np.array([f"{name}/{n}" for n in range(num_examples)])
    return pieces(name, scores, scores / 2, images, np.full(num_examples, subset), "published")


@pytest.mark.parametrize("model", PUBLISHED)
def test_the_published_overall_follows_from_the_sample_counts(model):
    vqa, localization, overall = PUBLISHED[model]
    parts = [column(one.name, vqa if one.group == "vqa" else localization)[0] for one in COLUMNS]
    found = {
        name: 100 * average([parts[i] for i in positions]).value
        for name, positions in members([one.group for one in COLUMNS]).items()
    }
    assert found["vqa"] == pytest.approx(vqa)
    assert found["localization"] == pytest.approx(localization)
    assert found["overall"] == pytest.approx(overall, abs=0.01)


def test_the_study_weighs_288750_to_44830():
    weights = dict.fromkeys(("vqa", "localization"), 0)
    for one in COLUMNS:
        weights[one.group] += one.num_published
    assert weights == {"vqa": 288_750, "localization": 44_830}


def test_an_average_of_nothing_is_left_out():
    assert members(["vqa", "vqa"]) == {"vqa": [0, 1], "overall": [0, 1]}
    assert members([]) == {}


def test_the_splits_of_pope_count_alike_whatever_their_sizes():
    scores = np.array([1.0, 1.0, 1.0, 0.0])
    subset = np.array(["adversarial"] * 3 + ["random"])
    images = np.array(["a", "b", "c", "a"])
    parts = pieces("pope", scores, scores * 0, images, subset)
    assert [part.weight for part in parts] == [2, 2]
    assert average(parts).value == pytest.approx(0.5)
    assert gain(parts).value == pytest.approx(0.5)
    assert average(pieces("vqav2", scores, scores * 0, images, subset)).value == pytest.approx(0.75)
    assert sum(part.weight for part in pieces("pope", scores, scores, images, subset, "published")) == 8_910


def test_a_benchmark_of_ones_own_weighs_what_it_has_in_both_ways():
    scores = np.ones(7)
    for weights in ("counts", "published"):
        (part,) = pieces("my-signs", scores, scores, scores.astype(str), scores.astype(str), weights)
        assert part.weight == 7
