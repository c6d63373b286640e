"""The same questions to every benchmark."""

from __future__ import annotations

import json

import pytest

from eyeswap.data.formats import Example, normalise_box
from eyeswap.data.official.subsets import shuffled, subsample
from eyeswap.errors import DataError, SpecError
from eyeswap.evaluation import BENCHMARKS, get_benchmark

each_benchmark = pytest.mark.parametrize("name", BENCHMARKS)


def example(benchmark):
    truth = {"pope": "yes", "tallyqa": 3, "gqa": "dog"}.get(benchmark.name, ("dog",) * 10)
    if benchmark.answer_kind == "box":
        truth = normalise_box((0, 0, 50, 50), (100, 100))
    return Example("a/1", "image.jpg", "1", "val", "some", "Where is it?", truth)


def right_answer(benchmark):
    if benchmark.choices:
        truth = {"pope": 0, "tallyqa": 3}[benchmark.name]
        return tuple(float(index == truth) for index in range(len(benchmark.choices)))
    return {"gqa": "Dog", "box": "[0.00, 0.00, 0.50, 0.50]"}.get(
        "box" if benchmark.answer_kind == "box" else benchmark.name, "dog"
    )


def test_there_are_the_eleven_columns_of_the_study():
    assert len(BENCHMARKS) == 11
    groups = [benchmark.group for benchmark in BENCHMARKS.values()]
    assert groups.count("localization") == 4


@each_benchmark
def test_a_right_answer_scores_one_and_a_wrong_one_zero(name):
    benchmark = get_benchmark(name)
    right = benchmark.score(example(benchmark), right_answer(benchmark))
    wrong = benchmark.score(example(benchmark), "[0.9, 0.9, 1.0, 1.0]" if name != "pope" else "no")
    assert (right.score, right.invalid) == (1, False)
    assert wrong.score == 0
    assert (right.iou is not None) == (benchmark.group == "localization")


@each_benchmark
def test_the_summary_is_plain_json_in_percent(name):
    benchmark = get_benchmark(name)
    outcome = benchmark.score(example(benchmark), right_answer(benchmark))
    summary = json.loads(json.dumps(benchmark.aggregate([outcome, outcome])))
    assert (summary["n"], summary["score"], summary["invalid_rate"]) == (2, 100, 0)
    assert summary["subsets"] == {"val": {"n": 2, "score": 100}}
    assert summary["kinds"] == {"some": {"n": 2, "score": 100}}


@each_benchmark
def test_nothing_answered_is_none_not_a_crash(name):
    summary = get_benchmark(name).aggregate([])
    assert (summary["n"], summary["score"], summary["invalid_rate"]) == (0, None, None)
    assert all(summary["details"][metric] is None for metric in summary["reasons"])


@each_benchmark
def test_an_empty_answer_is_invalid(name):
    benchmark = get_benchmark(name)
    outcome = benchmark.score(example(benchmark), "  ")
    assert outcome.invalid
    assert outcome.score == (1 if name == "pope" else 0)  # POPE's script takes everything but no for yes


@each_benchmark
def test_a_truth_of_another_benchmark_is_refused(name):
    benchmark = get_benchmark(name)
    alien = Example("a/1", "image.jpg", "1", "val", "some", "?", "maybe" if name == "tallyqa" else 7)
    with pytest.raises(DataError, match="example a/1"):
        benchmark.score(alien, "x")


def test_an_unknown_benchmark_names_the_nearest():
    with pytest.raises(SpecError, match=r'unknown benchmark "refcocoo"\. Did you mean refcoco'):
        get_benchmark("refcocoo")


def test_official_mode_of_pope_asks_for_text():
    assert get_benchmark("pope").choices == ("Yes", "No")
    assert get_benchmark("pope").max_new_tokens == 1
    official = get_benchmark("pope", "official")
    assert (official.answer_kind, official.choices) == ("text", ())


def test_official_mode_of_vqa_compares_raw_text_when_all_agree():
    asked = Example("1", "i.jpg", "1", "val", "yes/no", "Is it?", ("yes",) * 10)
    assert get_benchmark("vqav2").score(asked, "Yes.").score == 1
    assert get_benchmark("vqav2", "official").score(asked, "Yes.").score == 0


def test_slim_subsets_are_nested_prefixes_of_one_shuffle():
    items = [(n, n % 3) for n in range(100)]
    small, large = (subsample(items, size, lambda item: item[1]) for size in (4, 9))
    order = shuffled(items)
    assert len(small) == 12
    assert set(small) < set(large)
    assert small == [item for item in order if item in small]
    assert len(subsample(items, 1000, lambda item: item[1])) == 100


def test_shuffling_leaves_the_input_alone():
    items = list(range(10))
    assert shuffled(items) != items == list(range(10))
