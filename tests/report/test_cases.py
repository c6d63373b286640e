"""Reports of every shape of study: one arm, one seed, many arms, unfinished, without boxes. Honest words, no crash."""

import pytest

from eyeswap.report import analyse, write_report
from eyeswap.report.figures import plots

PAPER = {
    "in1k-224px-vit-s": "in1k-vit-s",
    "in1k-224px-vit-b": "in1k-vit-b",
    "in1k-224px-maxvit-t-letterbox-s3": "in1k-224px-maxvit-t-s3",
    "mambavision-t-letterbox-s3": "mambavision-t-s3",
    "mambavision-s-letterbox-s3": "mambavision-s-s3",
    "vmamba-tiny-s1l8-letterbox": "vmamba-tiny-s1l8",
    "vmamba-small-s2l15-letterbox": "vmamba-small-s2l15",
    "vmamba-base-s2l15-letterbox": "vmamba-base-s2l15",
}


def written(study):
    analysis = analyse(study)
    return analysis, write_report(analysis)["report.html"].read_text()


def test_one_arm(make_study, no_drawing):
    analysis, page = written(make_study(arms=("vit",), num_examples=40))
    assert analysis.averages == []
    assert "there are no two finished arms to compare" in page
    assert 'id="pairs"' not in page
    assert "Fewer than two runs are finished" in page
    assert "best of its column" not in page


def test_one_arm_of_two_seeds(make_study, no_drawing):
    analysis, page = written(make_study(arms=("vit",), seeds=(1, 2), num_examples=40))
    assert "2 seeds per arm" in page
    assert "over images and seeds" in page
    assert analysis.results.arms[0].scores.averages["vqa"].low < analysis.results.arms[0].scores.averages["vqa"].value


def test_without_localization_nothing_is_said_about_boxes(make_study, no_drawing):
    analysis, page = written(make_study(arms=("vit", "vmamba"), benchmarks=("vqav2", "pope"), num_examples=40))
    assert analysis.grounding == analysis.collapse == []
    assert 'id="boxes"' not in page
    assert "ocalization" not in analysis.verdict.headline
    assert {"averages", "benchmarks", "learning"} <= set(plots(analysis))


def test_without_vqa_collapse_rests_on_the_constant_box(make_study, no_drawing):
    analysis, page = written(make_study(arms=("vit", "vmamba"), benchmarks=("refcoco",), num_examples=80))
    assert [one.arm for one in analysis.collapse] == ["vit", "vmamba"]
    assert "Has localization collapsed?" in page


def test_nothing_finished(make_study):
    analysis, page = written(make_study(arms=("vit", "vmamba"), unfinished=("vit", "vmamba"), num_examples=10))
    assert analysis.budgets == []
    assert "Not in this report" in page
    assert "<figure" not in page


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    from made_study import write_study

    return written(write_study(tmp_path_factory.mktemp("many") / "synthetic", arms=PAPER, num_examples=60))


@pytest.mark.extended
def test_many_arms_have_short_names_in_figures_and_whole_ones_in_tables(many):
    analysis, page = many
    assert analysis.labels["in1k-224px-maxvit-t-letterbox-s3"] == "maxvit-t"
    assert analysis.labels["vmamba-tiny-s1l8-letterbox"].startswith("vmamba-tiny")
    assert len(set(analysis.labels.values())) == len(PAPER)
    assert all(f">{name}<" in page for name in PAPER)
    assert len(page.encode()) < 8_000_000


@pytest.mark.extended
def test_published_models_stand_beside_and_what_cannot_be_compared_is_said(many):
    analysis, page = many
    assert {one.arm for one in analysis.published} == set(PAPER)
    assert all(one.in_words == "not comparable" for one in analysis.published)
    assert "not comparable: other benchmarks, the embedded data, language model digits-llm" in page
    assert len(analysis.published_points) == 15  # of classification
    assert "Hollow marks are the published study" in page


@pytest.mark.extended
def test_accuracy_is_the_published_one_of_imagenet(many):
    accuracy = next(one for one in many[0].predictors if one.key == "accuracy")
    assert accuracy.title == "ImageNet-1K top-1 accuracy"
    assert accuracy.values["vmamba-tiny-s1l8-letterbox"] == 82.6
    assert accuracy.correlations["vqa"][0].n == len(PAPER)


@pytest.mark.extended
def test_the_fastest_way_to_a_profile_is_named_until_there_is_one(many, make_study):
    seconds = next(one for one in many[0].budgets if one.key == "seconds")
    assert "eyeswap profile --out" in seconds.note
    study = make_study(arms=("vit", "vmamba"), num_examples=30)
    (study / "profile").mkdir()
    head = "backbone,side_px,tokens,vision_s,connector_s,prefill_s,decode_s,end_to_end_s,images_per_s,peak_bytes"
    rows = [f"digits-{name},128,64,0.01,0.001,0.02,0.004,{took},90,1000000000,False," for name, took in
            (("vit", 0.03), ("vmamba", 0.05))]  # fmt: skip
    (study / "profile" / "profile.csv").write_text("\n".join([f"{head},beyond_positions,problem", *rows]) + "\n")
    analysis, page = written(study)
    seconds = next(one for one in analysis.budgets if one.key == "seconds")
    assert seconds.values == {"vit": 0.03, "vmamba": 0.05}
    assert 'id="figure-stages"' in page


def test_a_broken_profile_is_named(make_study):
    from eyeswap.errors import DataError

    study = make_study(arms=("vit",), num_examples=20)
    (study / "profile.csv").write_text("backbone,side_px\nvit,many\n")
    with pytest.raises(DataError, match=r"profile\.csv: line 2: not a row written by `eyeswap profile`"):
        analyse(study)


def test_what_would_be_too_long_is_cut_and_said(make_study, no_drawing, monkeypatch):
    monkeypatch.setattr("eyeswap.report.writers.page.MAX_TABLE_ROWS", 7)
    monkeypatch.setattr("eyeswap.report.writers.page.MAX_DOWNLOAD_CHARS", 10_000)
    monkeypatch.setattr("eyeswap.report.writers.page.MAX_PAGE_BYTES", 500_000)
    analysis, page = written(make_study(num_examples=80))
    assert len(analysis.averages) == 18
    decided = sum(pair.in_words != "not decided" for pair in analysis.averages)
    assert f"{min(decided, 7)} of 18 pairs" in page
    assert 'download="results.json"' not in page
    assert 'download="results.csv"' in page
    assert len(page.encode()) < 500_000
