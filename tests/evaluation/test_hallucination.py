from __future__ import annotations

import math
from pathlib import Path

import pytest

from eyeswap.data.formats import Example, read_pope
from eyeswap.errors import DataError
from eyeswap.evaluation import get_benchmark
from eyeswap.evaluation.hallucination import say_yes_or_no, yes_no_report

POPE_FILES = Path(__file__).parents[1] / "fixtures" / "pope" / "e3e39262"


def asked(label="yes", split="random", number=1):
    return Example(f"{split}/{number}", "i.jpg", "i", split, "existence", "Is there a dog?", label)


@pytest.mark.parametrize(
    ("text", "told"),
    [("Yes", "yes"), ("No", "no"), ("no, there is not", "no"), ("NO", "yes"), ("No!", "yes"), ("", "yes"),
     ("It is. No", "yes"), ("isn't", "yes"), ("a\nno", "yes")],
)  # fmt: skip
def test_text_is_read_as_the_official_script_reads_it(text, told):
    assert say_yes_or_no(text) == told


def test_a_tie_is_yes_and_nan_is_invalid():
    benchmark = get_benchmark("pope")
    assert benchmark.score(asked("yes"), (0.5, 0.5)).score == 1
    broken = benchmark.score(asked("yes"), (math.nan, math.nan))
    assert (broken.score, broken.invalid, broken.margin) == (0, True, None)


def test_the_margin_is_positive_when_right():
    benchmark = get_benchmark("pope")
    assert benchmark.score(asked("no"), (0.2, 0.8)).margin == pytest.approx(math.log(4))
    assert benchmark.score(asked("yes"), (0.2, 0.8)).margin == pytest.approx(-math.log(4))
    assert math.isfinite(benchmark.score(asked("yes"), (0.0, 1.0)).margin)


def test_the_headline_is_the_plain_mean_of_the_splits():
    benchmark = get_benchmark("pope")
    answers = [("adversarial", "yes")] * 3 + [("random", "no")]
    outcomes = [
        benchmark.score(asked("yes", split, n), (1.0, 0.0) if says == "yes" else (0.0, 1.0))
        for n, (split, says) in enumerate(answers)
    ]
    summary = benchmark.aggregate(outcomes)
    assert summary["score"] == pytest.approx(50)
    assert summary["details"]["accuracy/popular"] is None
    assert summary["details"]["roc_auc/final"] is None
    assert summary["reasons"]["roc_auc/final"] == "needs examples of both labels"


def test_always_yes_on_the_real_files_scores_its_share_of_yes():
    benchmark = get_benchmark("pope", "official")
    examples = read_pope(POPE_FILES, "images")
    summary = benchmark.aggregate([benchmark.score(example, "Yes") for example in examples])
    assert summary["score"] == pytest.approx(100 * (0.5 + 0.5 + 1500 / 2910) / 3)
    assert summary["details"]["recall"] == 100
    assert summary["details"]["yes_ratio"] == 100


def test_what_has_no_denominator_is_none():
    report = yes_no_report([False, False], [False, True])
    assert report["precision"] is None
    assert report["f1"] is None
    assert report["recall"] == 0


def test_two_probabilities_are_needed():
    with pytest.raises(DataError, match=r"needs P\(Yes\) and P\(No\), found 3"):
        get_benchmark("pope").score(asked(), (0.1, 0.2, 0.7))


def test_the_official_mode_reports_every_split_as_the_script_does():
    benchmark = get_benchmark("pope", "official")
    answers = [("adversarial", "yes", "Yes"), ("adversarial", "no", "Yes"), ("random", "no", "No, it is not.")]
    outcomes = [benchmark.score(asked(label, split, n), text) for n, (split, label, text) in enumerate(answers)]
    details = benchmark.aggregate(outcomes)
    values, reasons = details["details"], details["reasons"]
    assert (values["precision/adversarial"], values["recall/adversarial"]) == (50, 100)
    assert values["f1/adversarial"] == pytest.approx(100 * 2 / 3)
    assert values["accuracy/random"] == 100
    assert values["precision/random"] is None
    assert reasons["precision/random"] == "no yes among the answers"
    assert reasons["accuracy/popular"] == "no example"
    assert (values["tp"], values["tp/final"], values["accuracy/final"]) == (1, 1, pytest.approx(100 * 2 / 3))
