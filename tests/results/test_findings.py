"""The page of findings says what the results in the repository say."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from eyeswap.planning.spec import SeedSd, load_study
from shipped_studies import load_shipped

ROOT = Path(__file__).parents[2]
STUDIES = sorted(path.name for path in (ROOT / "results" / "miniature").iterdir())
PAGE = (ROOT / "docs" / "findings.md").read_text(encoding="utf-8")


def results(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((ROOT / f"results/miniature/{name}/results.json").read_text(encoding="utf-8"))
    return content


def cells(name: str, arm: str) -> str:
    """The VQA and localization of an arm as the page writes them."""
    averages = results(name)["arms"][arm]["averages"]
    return " | ".join(
        f"{averages[part]['value']:.1f} [{averages[part]['low']:.1f}, {averages[part]['high']:.1f}]"
        for part in ("vqa", "localization")
    )


def test_the_page_says_what_predicts() -> None:
    content = json.loads((ROOT / "results" / "predictors" / "predictors.json").read_text(encoding="utf-8"))
    found = {(each["predictor"], each["average"]): each for each in content["predictions"]}
    located, answered = (
        [each["predictor"] for each in found.values() if each["decided"] and each["average"] == average]
        for average in ("localization", "vqa")
    )
    assert answered == ["top-1 accuracy"]
    assert located[:2] == ["correspondence", "how many, nonlinear readout"]
    assert not {"top-1 accuracy", "parameters", "tokens", "norm"} & set(located)
    for name in ("correspondence", "how many, nonlinear readout"):
        lead = found[name, "localization"]["lead"]
        assert (lead["low"] > 0) == (name == "correspondence")
        assert f"{lead['value']:.2f} [{lead['low']:.2f}, {lead['high']:.2f}]" in PAGE
    for name in ("correspondence", "how many, nonlinear readout", "top-1 accuracy"):
        for average in ("localization", "vqa"):
            each = found[name, average]
            of, p = each["correlation"], "< 0.001" if each["p"] < 0.001 else f"{each['p']:.3f}"
            assert (
                f"| {of['n']} | +{of['value']:.2f} [{of['low']:.2f}, {of['high']:.2f}] | {p} | "
                f"{each['error']:.1f}, of the mean {each['plain_error']:.1f} |"
            ) in PAGE
    runs, families = (Counter(each[key] for each in content["encoders"]) for key in ("runs", "family"))
    assert f"{len(content['encoders'])} encoders of four families" in PAGE
    assert len(families) == 4
    assert f"{sum(count * many for count, many in runs.items())} training runs" in PAGE.replace("\n", " ")


@pytest.mark.parametrize("name", STUDIES)
def test_results_are_of_the_study_in_the_repository(name: str, tmp_path: Path) -> None:
    study = load_shipped(ROOT / f"studies/miniature/{name}.yaml", tmp_path)
    content = results(name)
    assert content["question"] == study.question
    assert list(content["arms"]) == list(study.arms)
    assert all(entry["seeds"] == list(study.seeds) for entry in content["arms"].values())
    assert f"studies/miniature/{name}.yaml" in PAGE


@pytest.mark.parametrize("arm", ["vit", "maxvit", "vmamba", "mambavision"])
def test_the_page_has_the_averages_of_the_matched_study(arm: str) -> None:
    averages = results("matched")["arms"][arm]["averages"]
    cells = [f"{each['value']:.1f} [{each['low']:.1f}, {each['high']:.1f}]" for each in averages.values()]
    assert f"| {arm} | {' | '.join(cells)} |" in PAGE


@pytest.mark.parametrize(
    ("study", "arm"), [(study, arm) for study in STUDIES if study != "matched" for arm in results(study)["arms"]]
)
def test_the_page_has_the_scores_of_every_arm(study: str, arm: str) -> None:
    assert re.search(rf"^\| {arm} \| .* \| {re.escape(cells(study, arm))} \|$", PAGE, re.M)


def test_the_square_canvas_is_ahead_of_the_oblong_one_and_the_connector_undecided() -> None:
    pairs = results("canvas-and-connector")["comparisons"]["averages"]
    decided = {(each["ahead"], each["behind"]) for each in pairs if each["where"] == "localization" and each["decided"]}
    assert decided == {
        (square, oblong) for square in ("square", "square-fused") for oblong in ("oblong", "oblong-fused")
    }


def decided(study: str, where: str) -> dict[tuple[str, str], dict[str, Any]]:
    """The decided comparisons of an average, by the arm that is ahead and the one behind."""
    pairs = results(study)["comparisons"]["averages"]
    return {(each["ahead"], each["behind"]): each for each in pairs if each["where"] == where and each["decided"]}


def difference(each: dict[str, Any]) -> str:
    """A comparison as the page writes it."""
    return f"{each['value']:.1f} [{each['low']:.1f}, {each['high']:.1f}]"


def test_accuracy_orders_vqa_and_not_localization() -> None:
    accuracy = results("accuracy")["predictors"][0]
    for where, p in (("vqa", "p = 0.004"), ("localization", "p = 0.19")):
        of = accuracy["correlations"][where][0]
        assert f"+{of['value']:.2f} [{of['low']:.2f}, {of['high']:.2f}]" in PAGE
        assert p in PAGE
        assert f"{of['p']:.3f}".startswith(p.removeprefix("p = "))
    located, answered = decided("accuracy", "localization"), decided("accuracy", "vqa")
    for pair in (("vmamba", "vit"), ("maxvit-at-97", "vit"), ("maxvit-at-50", "vit"), ("mambavision-at-50", "vit")):
        assert difference(located[pair]) in PAGE
    assert {("mambavision-at-50", "mambavision-at-97"), ("mambavision", "mambavision-at-97")} <= set(located)
    assert ("vmamba-at-75", "vmamba-at-50") not in located
    for family in ("vit", "vmamba", "maxvit"):
        assert f"{answered[family, f'{family}-at-50']['value']:.1f}" in PAGE


@pytest.mark.parametrize("study", ["as-published", "again"])
def test_nothing_is_decided_of_published_habits_and_second_pretrainings(study: str) -> None:
    assert not [each for each in results(study)["comparisons"]["averages"] if each["decided"]]


def test_dense_objectives_are_decided_to_locate_better_in_all_families() -> None:
    ahead = decided("dense", "localization") | decided("dense-maxvit", "localization")
    for family in ("vmamba", "vit", "maxvit"):
        for objective in ("detection", "segmentation"):
            assert f"+{difference(ahead[f'{family}-{objective}', f'{family}-classification'])}" in PAGE
    assert all(behind.endswith("-classification") for _, behind in ahead)
    assert not decided("dense", "vqa") | decided("dense-maxvit", "vqa")


def test_the_earlier_stage_is_ahead_once_its_tokens_are_averaged() -> None:
    located = decided("pooled-stage", "localization")
    for behind in ("vmamba", "vmamba-stage-2"):
        assert difference(located["vmamba-stage-2-pooled", behind]) in PAGE
    assert ("vmamba", "vmamba-stage-2") in located


def test_fewer_tokens_locate_worse_however_they_are_made() -> None:
    located, answered = decided("token-budget", "localization"), decided("token-budget", "vqa")
    by_family = {"vmamba": (16.0, 18.9), "vit": (6.0, 6.6)}
    for family, (least, most) in by_family.items():
        fewer = [arm for arm in results("token-budget")["arms"] if arm.startswith(family) and arm != f"{family}-64"]
        losses = [located[f"{family}-64", arm]["value"] for arm in fewer]
        assert (round(min(losses), 1), round(max(losses), 1)) == (least, most)
        assert not [pair for pair in located if set(pair) <= set(fewer)]
    assert {behind for ahead, behind in answered if (ahead, behind[:6]) == ("vmamba-64", "vmamba")} == {
        "vmamba-4",
        "vmamba-16-conv",
        "vmamba-16-resampler",
    }


def test_no_larger_size_is_ahead_and_the_smallest_vit_locates_better_than_the_largest() -> None:
    families, sizes = ("vit", "maxvit", "vmamba", "mambavision"), ("-tiny", "", "-base")
    found = {where: decided("sizes", where) for where in ("vqa", "localization", "overall")}
    for pairs in found.values():
        for family in families:
            for small, large in ((0, 1), (0, 2), (1, 2)):
                assert (family + sizes[large], family + sizes[small]) not in pairs
    assert difference(found["localization"]["vit-tiny", "vit-base"]) in PAGE
    accurate = {arm for arm, value in results("sizes")["predictors"][0]["values"].items() if value > 94}
    assert len(accurate) == 7
    among = {where: {pair for pair in found[where] if set(pair) <= accurate} for where in found}
    assert among == {"vqa": set(), "localization": set(), "overall": {("maxvit-tiny", "mambavision-base")}}
    assert difference(found["overall"]["maxvit-tiny", "mambavision-base"]) in PAGE


def test_tokens_locate_where_the_llm_has_read_as_many_words() -> None:
    located = decided("positions", "localization")
    assert set(located) == {
        ("64-words-64-tokens", "64-words-256-tokens"),
        ("256-words-256-tokens", "64-words-256-tokens"),
        ("64-words-64-tokens", "256-words-64-tokens"),
    }
    assert f"{located['64-words-64-tokens', '64-words-256-tokens']['value']:.1f} points worse than 64" in PAGE
    for ahead, behind in (
        ("256-words-256-tokens", "64-words-256-tokens"),
        ("64-words-64-tokens", "256-words-64-tokens"),
    ):
        assert difference(located[ahead, behind]) in PAGE
    assert not decided("positions", "vqa")


def test_the_page_says_where_boxes_of_256_tokens_get_lost() -> None:
    columns = []
    for arm in ("64-words-256-tokens", "256-words-256-tokens"):
        with (ROOT / f"results/miniature/positions/probe-{arm}.csv").open(encoding="utf-8") as stream:
            rows = [row for row in csv.DictReader(stream) if row["task"] == "where" and row["readout"] != "linear"]
        columns.append(
            [f"{float(row['score']):.0f} ({float(row['low']):.0f}-{float(row['high']):.0f})" for row in rows]
        )
    sites = [
        "visual tokens",
        "connector",
        "visual tokens behind the LLM's last layer",
        "the state that begins the answer, last layer",
        "the VLM's own answer",
    ]
    for site, one, other in zip(sites, *columns, strict=True):
        assert f"| {site} | {one} | {other} |" in PAGE


def test_the_first_block_locates_better_and_the_last_answers_better() -> None:
    assert difference(decided("first-block", "localization")["vmamba-first-block", "vmamba"]) in PAGE
    assert difference(decided("first-block", "vqa")["vmamba", "vmamba-first-block"]) in PAGE


def test_only_the_earlier_stage_is_decided_to_be_behind() -> None:
    pairs = [each for each in results("stage")["comparisons"]["averages"] if each["decided"]]
    assert {each["behind"] for each in pairs} == {"vmamba-stage-2"}
    assert [each["where"] for each in pairs].count("localization") == 4
    assert [each["where"] for each in pairs].count("vqa") == 3


def test_the_page_claims_no_more_than_was_decided() -> None:
    over_vit = {(arm, "vit") for arm in ("maxvit", "vmamba", "mambavision")}
    over_others = {"vqa": {("maxvit", "vmamba")}, "overall": {("maxvit", "vmamba"), ("maxvit", "mambavision")}}
    for where in ("vqa", "localization", "overall"):
        found, others = decided("matched", where), over_others.get(where, set())
        assert set(found) == over_vit | others
        assert all(f"+{difference(found[pair])}" in PAGE for pair in others)


def test_the_quickstart_states_the_seed_sd_that_was_measured() -> None:
    stated = load_study(ROOT / "studies/quickstart.yaml").seed_sd
    assert isinstance(stated, SeedSd)
    measured = results("matched")["seed_sd"]
    for where in ("vqa", "localization", "overall"):
        assert getattr(stated, where) == round(measured[where]["sd"], 2)
        assert stated.df == measured[where]["freedom"]
    assert re.search(r"studies/miniature/matched\.yaml", (ROOT / "studies/quickstart.yaml").read_text(encoding="utf-8"))


@pytest.mark.extended
def test_a_run_of_a_study_gives_its_results_again(tmp_path: Path) -> None:
    """One command, from nothing; two minutes where a core is fast, and several where it is not."""
    study = yaml.safe_load((ROOT / "studies/miniature/token-budget.yaml").read_text(encoding="utf-8"))
    arm, exported = "vmamba-4", results("token-budget")["arms"]["vmamba-4"]
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(study | {"arms": {arm: study["arms"][arm]}}), encoding="utf-8")
    command = ["study", "run", "again.yaml", "--runs", "runs", "--workers", "1"]
    subprocess.run([sys.executable, "-m", "eyeswap.cli", *command], cwd=tmp_path, check=True, capture_output=True)
    report = json.loads((tmp_path / "runs/again/report/results.json").read_text(encoding="utf-8"))
    for where, average in report["arms"][arm]["averages"].items():
        kept = exported["averages"][where]
        assert kept["low"] < average["value"] < kept["high"]
        assert average["n"] == kept["n"]
