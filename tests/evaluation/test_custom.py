"""Benchmarks of the user: a YAML file with a metric by name, and JSON lines."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eyeswap.errors import DataError, EyeswapError, MissingFileError, SpecError
from eyeswap.evaluation import get_benchmark
from eyeswap.evaluation.baselines import TrivialBaseline
from eyeswap.evaluation.custom import METRICS, read_number

ROW = {"id": 1, "image": "a.jpg", "question": "What does the sign say?"}
ROWS = {
    "exact-match": ROW | {"answer": "Stop"},
    "vqa-accuracy": ROW | {"answers": ["stop"] * 3 + ["halt"] * 7},
    "number": ROW | {"answer": 3},
    "yes-no": ROW | {"answer": "yes"},
    "multiple-choice": ROW | {"choices": ["go", "stop", "yield"], "answer": "stop"},
    "accuracy-iou-0.5": ROW | {"box": [0, 0, 50, 25], "width": 100, "height": 50},
}
each_metric = pytest.mark.parametrize("metric", METRICS)


def write(folder, kind, rows=None, name="my-signs", **header):
    lines = [ROWS[kind]] if rows is None else rows
    (folder / "rows.jsonl").write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps({"metric": kind, "data": "rows.jsonl", "images": "photos"} | header))  # JSON is YAML
    return str(path)


def test_every_metric_has_a_row_here():
    assert ROWS.keys() == METRICS.keys()


@each_metric
def test_a_benchmark_is_read_asked_and_scored(tmp_path, metric):
    benchmark = get_benchmark(write(tmp_path, metric))
    assert (benchmark.name, benchmark.title, benchmark.metric) == ("my-signs", "my-signs", metric)
    assert benchmark.group == ("localization" if metric == "accuracy-iou-0.5" else "vqa")
    (example,) = benchmark.examples(tmp_path)
    assert (example.example_id, example.image, example.question) == ("1", "photos/a.jpg", ROW["question"])
    assert ROW["question"] in benchmark.user_message(example)
    right = {"exact-match": "stop.", "vqa-accuracy": "stop", "number": "three", "yes-no": (0.9, 0.1),
             "multiple-choice": (0.1, 0.7, 0.2), "accuracy-iou-0.5": "[0.00, 0.00, 0.50, 0.50]"}  # fmt: skip
    wrong = {"exact-match": "go", "vqa-accuracy": "go", "number": "about 3", "yes-no": (0.1, 0.9),
             "multiple-choice": (0.7, 0.1, 0.2), "accuracy-iou-0.5": "[0.50, 0.50, 1.00, 1.00]"}  # fmt: skip
    assert benchmark.score(example, right[metric]).score == (pytest.approx(0.9) if metric == "vqa-accuracy" else 1)
    assert benchmark.score(example, wrong[metric]).score == 0
    summary = benchmark.aggregate([benchmark.score(example, right[metric])])
    assert json.loads(json.dumps(summary))["n"] == 1


def test_images_outside_the_data_root_are_named_by_their_whole_path(tmp_path):
    benchmark = get_benchmark(write(tmp_path, "number"))
    (example,) = benchmark.examples(tmp_path / "elsewhere")
    assert example.image == (tmp_path.resolve() / "photos" / "a.jpg").as_posix()
    assert tmp_path / "elsewhere" / example.image == tmp_path.resolve() / "photos" / "a.jpg"


def test_prompt_title_and_group_may_be_given(tmp_path):
    benchmark = get_benchmark(write(tmp_path, "exact-match", prompt="One word.", title="Signs", group="localization"))
    (example,) = benchmark.examples(tmp_path)
    assert benchmark.user_message(example) == f"{ROW['question']}\nOne word."
    assert (benchmark.title, benchmark.group) == ("Signs", "localization")
    silent = get_benchmark(write(tmp_path, "exact-match", prompt=""))
    assert silent.user_message(example) == ROW["question"]


def test_a_box_is_asked_for_as_in_the_study_and_scored_in_fractions_of_the_image(tmp_path):
    rows = [ROWS["accuracy-iou-0.5"], ROW | {"id": 2, "box": [0.0, 0.0, 0.333, 1.0]}]
    path = write(tmp_path, "accuracy-iou-0.5", rows)
    benchmark = get_benchmark(path)
    first, second = benchmark.examples(tmp_path)
    assert benchmark.user_message(first).endswith(f'region this sentence describes: "{ROW["question"]}"')
    assert first.truth == (0, 0, 0.5, 0.5)
    assert second.truth == (0, 0, 0.333, 1)  # not rounded
    assert benchmark.score(first, "[0.00, 0.00, 0.50, 0.25]").score == 1
    strict = get_benchmark(write(tmp_path, "accuracy-iou-0.5", rows, name="strict", metric="accuracy-iou-0.75"))
    assert strict.score(first, "[0.00, 0.00, 0.50, 0.25]").score == 0
    assert strict.score(first, "somewhere").invalid


def test_choices_may_differ_in_number_and_only_those_of_the_row_count(tmp_path):
    rows = [ROWS["multiple-choice"], ROW | {"id": 2, "choices": ["a", "b"], "answer": "B"}]
    benchmark = get_benchmark(write(tmp_path, "multiple-choice", rows))
    assert benchmark.choices == ("A", "B", "C")
    _, two = benchmark.examples(tmp_path)
    outcome = benchmark.score(two, (0.1, 0.2, 0.7))  # C is not offered
    assert (outcome.answer, outcome.score) == ("B", 1)
    assert outcome.margin == pytest.approx(math.log(2))
    assert [benchmark.score(two, text).score for text in ("B", "B.", "b", "(B)", "A")] == [1, 1, 1, 0, 0]
    assert benchmark.score(two, (math.nan,) * 3).invalid


def test_subsets_are_reported_and_slim_sets_fill_each(tmp_path):
    rows = [ROWS["number"] | {"id": n, "subset": "night" if n % 4 else "day"} for n in range(20)]
    benchmark = get_benchmark(write(tmp_path, "number", rows))
    assert len(benchmark.slim(tmp_path, 3)) == 6
    assert benchmark.num_published == 20


def test_the_baseline_is_found_on_training_rows_if_there_are_some(tmp_path):
    (tmp_path / "train.jsonl").write_text("\n".join(json.dumps(ROWS["number"] | {"id": n}) for n in range(3)))
    benchmark = get_benchmark(write(tmp_path, "number", train="train.jsonl"))
    assert TrivialBaseline.of(benchmark, tmp_path).answers["question"] == "3"
    blind = get_benchmark(write(tmp_path, "number"))
    with pytest.raises(MissingFileError, match=r"my-signs.yaml: no train rows"):
        blind.examples(tmp_path, "train")
    assert "no training split" in TrivialBaseline.of(blind, tmp_path).title


@pytest.mark.parametrize(
    ("text", "number"),
    [("3", 3), ("Three", 3), (" 3. ", 3), ("1,000", 1000), ("-2.5", -2.5), ("none", 0), ("3 dogs", None), ("nan", None),
     ("", None), ("1e999", None)],
)  # fmt: skip
def test_a_number_is_the_whole_answer(text, number):
    assert read_number(text) == number


@pytest.mark.parametrize(
    ("metric", "row", "message"),
    [
        ("exact-match", {"answer": 3}, r"rows.jsonl: row 2: field 'answer' must be text, found int"),
        ("exact-match", {"answer": None, "answers": []}, r"row 2: field 'answers' must be a list of texts"),
        ("vqa-accuracy", {"answers": ["a"] * 3}, r"row 2: vqa-accuracy needs 4 answers or more, found 3"),
        ("number", {"answer": "many"}, r"row 2: field 'answer' must be a number, found 'many'"),
        ("yes-no", {"answer": "maybe"}, r"row 2: field 'answer' must be yes or no, found 'maybe'"),
        ("multiple-choice", {"answer": "D"}, r"row 2: field 'answer' must be one of the choices or a letter of ABC"),
        ("multiple-choice", {"choices": ["go", "go"]}, r"row 2: field 'choices' contains the same text twice"),
        ("multiple-choice", {"choices": ["go"]}, r"row 2: field 'choices' must be a list of 2 to 26 texts"),
        ("accuracy-iou-0.5", {"box": [0, 0, 101, 25]}, r"row 2: box \[0, 0, 101, 25\] is empty or outside its 100x50"),
        ("accuracy-iou-0.5", {"box": [0, 0, 1]}, r"row 2: field 'box' must be a list of four numbers"),
        ("number", {"id": 1}, r"rows.jsonl: example 2: id '1' occurs twice"),
        ("number", {"image": "../../secret.jpg"}, r"row 2: image name '../../secret.jpg' must stay inside"),
        ("number", {"question": 3}, r"row 2: field 'question' must be text"),
    ],
)
def test_a_bad_row_is_named_before_anything_runs(tmp_path, metric, row, message):
    good = ROWS[metric]
    with pytest.raises(DataError, match=message):
        get_benchmark(write(tmp_path, metric, [good, {**good, "id": 2, **row}]))


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"metric": "exact"}, r"unknown metric 'exact'. Did you mean exact-match"),
        ({"metric": "accuracy-iou-0"}, r"unknown metric 'accuracy-iou-0'"),
        ({"metrics": "x"}, r"unknown key 'metrics'. Did you mean metric"),
        ({"group": "other"}, r"group: Allowed: vqa, localization"),
        ({"data": "none.jsonl"}, r"none.jsonl: no such file"),
        ({"data": 3}, r"field 'data' must be text, found int"),
    ],
)
def test_a_bad_header_is_named(tmp_path, header, message):
    path = write(tmp_path, "number", **header)
    with pytest.raises(EyeswapError, match=message):
        get_benchmark(path)


def test_names_must_be_new_and_kebab_case(tmp_path):
    with pytest.raises(SpecError, match="pope is the name of a built-in benchmark; rename the file"):
        get_benchmark(write(tmp_path, "number", name="pope"))
    with pytest.raises(SpecError, match="must be kebab-case"):
        get_benchmark(write(tmp_path, "number", name="My Signs"))
    with pytest.raises(SpecError, match="no such file"):
        get_benchmark(str(tmp_path / "none.yaml"))
    with pytest.raises(DataError, match="has no rows"):
        get_benchmark(write(tmp_path, "number", [" "]))


JUNK = st.sampled_from([None, -1, 1.5, True, "", "x", [], {}, [[]], float("nan"), 10**30, "../x", [1, 2, 3, 4]])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(metric=st.sampled_from(list(METRICS)), key=st.sampled_from(["id", "image", "answer", "answers", "box", "width",
       "height", "choices", "kind", "subset", "question"]), junk=JUNK)  # fmt: skip
def test_junk_in_a_row_is_refused_in_one_line_or_read(tmp_path, metric, key, junk):
    path = write(tmp_path, metric, [ROWS[metric], {**ROWS[metric], "id": 2, key: junk}])
    examples, message = [], ""
    try:
        benchmark = get_benchmark(path)
        examples = benchmark.examples(tmp_path)
    except DataError as error:
        message = str(error)
    assert "\n" not in message
    assert bool(examples) != ("rows.jsonl: " in message)
    for example in examples:
        assert benchmark.user_message(example)
        assert 0 <= benchmark.score(example, "3").score <= 1


def test_the_example_of_the_page_loads(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "benchmarks.md").read_text()
    for language, name in (("yaml", "my-signs.yaml"), ("json", "my-signs.jsonl")):
        block = re.search(rf"```{language}\n(.*?)```", page, re.DOTALL)
        assert block
        (tmp_path / name).write_text(block.group(1))
    benchmark = get_benchmark(str(tmp_path / "my-signs.yaml"))
    first, second = benchmark.examples(tmp_path)
    assert benchmark.score(first, "Stop!").score == benchmark.score(second, "Do not enter").score == 1
    assert second.subset == "night"
    for metric in METRICS:
        assert f"| `{metric}`" in page
