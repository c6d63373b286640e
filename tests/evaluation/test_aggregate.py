from __future__ import annotations

import pytest

from eyeswap.evaluation import BENCHMARKS
from eyeswap.evaluation.aggregate import averages, published_count, weighted_average

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


@pytest.mark.parametrize("model", PUBLISHED)
def test_the_published_overall_follows_from_the_sample_counts(model):
    vqa, localization, overall = PUBLISHED[model]
    scores = [
        (benchmark.group, vqa if benchmark.group == "vqa" else localization, benchmark.num_published)
        for benchmark in BENCHMARKS.values()
    ]
    result = averages(scores)
    assert result["vqa"]["score"] == pytest.approx(vqa)
    assert result["localization"]["score"] == pytest.approx(localization)
    assert result["overall"]["score"] == pytest.approx(overall, abs=0.01)


def test_the_study_weighs_288750_to_44830():
    assert published_count("vqa") == 288_750
    assert published_count("localization") == 44_830


def test_a_missing_score_is_left_out_with_its_examples():
    assert weighted_average([(50.0, 1), (None, 100), (80.0, 2)]) == {"n": 3, "score": 70.0}
    assert weighted_average([(None, 100)]) == {"n": 0, "score": None}
    assert averages([("vqa", 40.0, 10)])["localization"] == {"n": 0, "score": None}
