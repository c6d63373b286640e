import pytest

from eyeswap.errors import DataError
from eyeswap.files import read_json, write_json
from eyeswap.report.analysis.study import gather


def test_a_finished_study_is_read_whole(study_dir):
    results = gather(study_dir)
    assert [arm.name for arm in results.finished_arms] == ["vit", "maxvit", "vmamba", "mambavision"]
    assert results.groups == ["vqa", "localization", "overall"]
    assert [one.name for one in results.benchmarks] == ["vqav2", "pope", "tallyqa", "refcoco", "ocid-ref"]
    vmamba = results.arms[2]
    assert (vmamba.num_parameters, vmamba.num_tokens) == (318_000, 64)
    assert len(vmamba.runs[0].training_rows) == 240
    stored = read_json(study_dir / "vmamba" / "seed-7" / "scores.json")["averages"]["vqa"]
    assert vmamba.scores.averages["vqa"].value == stored["score"]


def test_unfinished_arms_are_named_and_the_others_stay(make_study):
    results = gather(make_study(arms=("vit", "vmamba", "maxvit"), unfinished=("vmamba",)))
    assert [arm.name for arm in results.finished_arms] == ["vit", "maxvit"]
    assert results.arms[1].missing == ["seed 7: no scores yet (training step 240)"]


def test_an_arm_that_has_not_started_is_named(make_study):
    study = make_study(arms=("vit",))
    content = read_json(study / "study.json")
    content["arms"]["maxvit"] = {"backbone": "digits-maxvit"}
    write_json(study / "study.json", content)
    assert gather(study).arms[1].missing == ["seed 7: not started"]


def test_seeds_of_an_arm_are_pooled(make_study):
    arm = gather(make_study(arms=("vit",), seeds=(1, 2))).arms[0]
    singles = [run.scores.averages["vqa"].value for run in arm.runs]
    assert arm.scores.averages["vqa"].value == pytest.approx(sum(singles) / 2, abs=1e-3)
    assert singles[0] != singles[1]


def test_a_folder_that_is_no_study_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"study\.json: no such file"):
        gather(tmp_path)
    write_json(tmp_path / "study.json", {"name": "x", "question": "?"})
    with pytest.raises(DataError, match="no arms; this is not a study's folder"):
        gather(tmp_path)


def test_missing_predictions_are_named(make_study):
    study = make_study(arms=("vit",))
    (study / "vit" / "seed-7" / "predictions" / "pope.parquet").unlink()
    with pytest.raises(DataError, match=r"vit/seed-7/predictions/pope\.parquet: no such file"):
        gather(study)


def test_scores_in_another_format_are_refused(make_study):
    study = make_study(arms=("vit",))
    write_json(study / "vit" / "seed-7" / "scores.json", {"benchmarks": {"pope": 61.0}})
    with pytest.raises(DataError, match=r"scores\.json: not in the format"):
        gather(study)


def test_arms_that_answered_other_examples_are_not_compared(make_study):
    study = make_study(arms=("vit", "maxvit"))
    short = make_study(arms=("maxvit",), num_examples=60)
    content = read_json(study / "study.json")
    content["arms"] = {"vit": {}, "maxvit": {}}
    write_json(short / "study.json", content)
    with pytest.raises(DataError, match=r"maxvit.*different examples from .*vit.*60 rows"):
        gather(short)
