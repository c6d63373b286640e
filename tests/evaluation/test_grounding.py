from __future__ import annotations

import pytest

from eyeswap.data.formats import Example, normalise_box, write_ocid, write_refer
from eyeswap.evaluation import get_benchmark

AUTHORS = {"refcoco": "unc", "refcoco+": "unc", "refcocog": "umd"}


def located(example_id, subset, image, image_id="7"):
    size, box = (64, 48), (8, 8, 32, 32)
    return Example(
        example_id,
        image,
        image_id,
        subset,
        "expression",
        "the nine",
        normalise_box(box, size),
        size=size,
        box_px=box,
    )


def test_thresholds_differ_between_the_families():
    asked = located("1", "minimum", "i.jpg")
    x1, y1, x2, y2 = asked.truth
    half = f"[{x1}, {y1}, {x2}, {y1 + 0.35 * (y2 - y1)}]"
    assert get_benchmark("refcoco").score(asked, half).score == 0
    outcome = get_benchmark("ocid-ref").score(asked, half)
    assert outcome.score == 1
    assert outcome.iou == pytest.approx(0.35)
    assert outcome.box is not None


def test_the_expression_is_quoted_without_full_stop():
    message = get_benchmark("ocid-ref").user_message(located("1", "minimum", "i.jpg"))
    assert message.endswith('this sentence describes: "the nine"')


def test_the_official_layout_is_found_below_the_root(tmp_path):
    for name, authors in AUTHORS.items():
        folder = tmp_path / "download" / "refcoco" / name
        image = "download/refcoco/train2014/COCO_train2014_000000000007.jpg"
        rows = [located(f"{name}/{n}/{n}", "val" if n < 30 else "train", image) for n in range(40)]
        write_refer(folder / f"refs({authors}).p", folder / "instances.json", rows)
    benchmark = get_benchmark("refcoco+")
    examples = benchmark.examples(tmp_path)
    assert [example.example_id for example in examples[:2]] == ["refcoco+/0/0", "refcoco+/1/1"]
    assert len(examples) == 30
    assert len(benchmark.examples(tmp_path, "train")) == 10
    assert examples[0].image == "download/refcoco/train2014/COCO_train2014_000000000007.jpg"


def test_slim_subsets_of_the_three_sets_come_from_one_common_shuffle(tmp_path):
    test_the_official_layout_is_found_below_the_root(tmp_path)
    slims = {name: get_benchmark(name).slim(tmp_path, 5) for name in AUTHORS}
    assert all(len(rows) == 5 for rows in slims.values())
    numbers = {name: [row.raw_id for row in rows] for name, rows in slims.items()}
    assert numbers["refcoco"] != numbers["refcoco+"]
    assert all(row.example_id.startswith(f"{name}/") for name, rows in slims.items() for row in rows)


def test_ocid_slim_fills_each_level_of_clutter(tmp_path):
    images = "download/ocid-ref/OCID-dataset"
    levels = ("minimum", "medium", "maximum")
    rows = [located(str(n), levels[n % 3], f"{images}/s/{n}.png", f"s/{n}.png") for n in range(30)]
    write_ocid(tmp_path / "download" / "ocid-ref" / "val_expressions.json", images, rows)
    slim = get_benchmark("ocid-ref").slim(tmp_path, 2)
    assert sorted(example.subset for example in slim) == sorted(levels * 2)


def test_mean_iou_counts_invalid_answers_as_zero():
    benchmark = get_benchmark("refcoco")
    asked = located("refcoco/1/1", "val", "i.jpg")
    outcomes = [benchmark.score(asked, str(list(asked.truth))), benchmark.score(asked, "there")]
    summary = benchmark.aggregate(outcomes)
    assert summary["details"]["mean_iou"] == pytest.approx(50)
    assert summary["invalid_rate"] == 50
