"""What may be said of one training run an arm: these runs on these images, unless the luck of runs is known."""

import io
import json
import re
from dataclasses import replace

import pytest
from made_study import write_study
from rich.console import Console

from eyeswap.errors import DataError
from eyeswap.files import read_json, write_json
from eyeswap.report import analyse, terminal_report
from eyeswap.report.analysis.pairs import compare_averages
from eyeswap.report.analysis.predictors import Predictor, weak_weights
from eyeswap.report.analysis.seeds import seed_spreads
from eyeswap.report.analysis.study import gather
from eyeswap.report.analysis.verdict import judge
from eyeswap.report.writers.data import as_json
from eyeswap.report.writers.markdown import markdown
from eyeswap.report.writers.page import render

TWINS = {"encoder-a": "digits-vit", "encoder-b": "digits-vit"}  # one encoder, trained with two seeds
LUCK = {"encoder-a": (0.75, 0.45), "encoder-b": (0.60, 0.25)}
FORBIDDEN = re.compile(r"\blead|decided|would be detected", re.IGNORECASE)


@pytest.fixture(scope="module")
def twins(tmp_path_factory):
    """A study of one encoder twice, whose two runs differ by luck."""
    return write_study(tmp_path_factory.mktemp("twins") / "synthetic", arms=TWINS, skills=LUCK)


@pytest.fixture
def page_of(no_drawing):
    """Return a function that renders a page without drawing its figures."""
    return render


def restated(study, tmp_path, seed_sd):
    """Return the study as it would be if it stated another seed s.d."""
    (tmp_path / "other").mkdir()
    for child in study.iterdir():
        if child.name not in ("study.json", "report"):
            (tmp_path / "other" / child.name).symlink_to(child)
    write_json(tmp_path / "other" / "study.json", read_json(study / "study.json") | {"seed_sd": seed_sd})
    return tmp_path / "other"


def on_terminal(analysis):
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(terminal_report(analysis))
    return " ".join(console.export_text().split())


def test_one_encoder_entered_twice_is_not_decided(twins, page_of):
    analysis = analyse(twins)
    pairs = [pair for pair in analysis.averages if pair.where != "overall"]
    assert all(pair.told_apart for pair in pairs)  # the runs do differ, on these images
    assert not any(pair.decided for pair in (*analysis.averages, *analysis.benchmarks))
    assert all(pair.detectable is None for pair in (*analysis.averages, *analysis.benchmarks))
    assert analysis.verdict.headline == (
        "In these runs, **encoder-a** scored higher than **encoder-b** on these images in VQA and in localization. "
        "This says nothing about other training runs of the same arms."
    )
    said = " ".join([analysis.verdict.headline, *(finding.text for finding in analysis.verdict.findings)])
    assert not FORBIDDEN.search(said)
    assert not FORBIDDEN.search(markdown(analysis).split("## Held fixed")[0].split("## Costs")[0])
    assert not FORBIDDEN.search(on_terminal(analysis))
    page = re.sub(
        r"<style>.*?</style>|<script>.*?</script>|data:[^\"]*|class=\"[^\"]*\"", "", render(analysis), flags=re.S
    )
    assert not FORBIDDEN.search(page.split('id="costs"')[0])
    assert "In these runs" in page


def test_a_stated_seed_sd_as_large_as_the_luck_decides_nothing(twins, tmp_path, page_of):
    analysis = analyse(restated(twins, tmp_path, {"vqa": 10.0, "localization": 14.0, "source": "twelve runs of 2024"}))
    assert analysis.verdict.headline == "Not decided: the arms are not told apart in VQA or in localization."
    assert all(0 < pair.detectable <= 100 for pair in analysis.averages)
    overall = analysis.seeds["overall"]
    n = {group: score.n for group, score in analysis.results.arms[0].scores.averages.items()}
    assert overall.sd == pytest.approx((10 * n["vqa"] + 14 * n["localization"]) / n["overall"])  # the most there can be
    source = "stated in the study: twelve runs of 2024"
    for text in (markdown(analysis), on_terminal(analysis), page_of(analysis)):
        assert source in text
        assert "VQA 10, localization 14" in text
    told = as_json(analysis)["seed_sd"]
    assert told["vqa"] == {"sd": 10.0, "freedom": None, "source": source}
    assert "refcoco" not in told  # of single benchmarks nothing is stated
    assert {pair.in_words for pair in analysis.benchmarks} <= {"higher in these runs", "not told apart"}


def test_a_stated_seed_sd_widens_every_interval_and_may_leave_a_difference_decided(twins, tmp_path):
    alone = analyse(twins)
    known = analyse(restated(twins, tmp_path, {"vqa": 0.5, "localization": 0.5, "df": 6}))
    assert known.verdict.headline == "**encoder-a** leads in VQA and in localization."
    for one, other in zip(alone.averages, known.averages, strict=True):
        assert (one.where, one.value) == (other.where, other.value)
        assert other.high - other.low > one.high - one.low
        assert other.p >= one.p * 0.999
    for arm, before in zip(known.results.arms, alone.results.arms, strict=True):
        score, narrow = arm.scores.averages["vqa"], before.scores.averages["vqa"]
        assert score.value == narrow.value
        assert score.high - score.low > narrow.high - narrow.low
        assert score.gain_high - score.gain_low > narrow.gain_high - narrow.gain_low


def test_one_average_alone_may_be_known(twins, tmp_path):
    analysis = analyse(restated(twins, tmp_path, {"vqa": 0.5}))
    assert analysis.verdict.headline.startswith(
        "**encoder-a** leads in VQA. In these runs, **encoder-a** scored higher"
    )
    texts = [finding.text for finding in analysis.verdict.findings if finding.kind == "warning"]
    assert any("That variation is unknown for localization and the overall score" in text for text in texts)


def test_the_seed_sd_of_another_study_is_measured_there(twins, tmp_path):
    skills = {("vit", 1): (0.55, 0.2), ("vit", 2): (0.75, 0.4), ("maxvit", 1): (0.7, 0.5), ("maxvit", 2): (0.6, 0.35)}
    other = write_study(tmp_path / "runs" / "synthetic", arms=("vit", "maxvit"), seeds=(1, 2), skills=skills)
    analysis = analyse(restated(twins, tmp_path, str(other)))
    there = [arm.runs for arm in gather(other).arms]
    scores = [[run.scores.averages["vqa"].value for run in runs] for runs in there]
    variance = sum((first - second) ** 2 / 2 for first, second in scores) / 2
    spread = analysis.seeds["vqa"]
    assert (spread.sd, spread.freedom) == (pytest.approx(variance**0.5, abs=1e-3), 2.0)
    assert spread.source == f"measured in {other.name}"
    assert set(analysis.seeds) == {*analysis.results.groups, *(one.name for one in analysis.results.benchmarks)}
    assert analysis.verdict.headline.startswith("Not decided")
    assert "2 degrees of freedom" in markdown(analysis)


@pytest.mark.parametrize(
    ("seed_sd", "says"),
    [
        ("nowhere/at-all", r"study\.json: seed_sd: .*nowhere/at-all"),
        ({"vqa": -1.0}, r"study\.json: seed_sd: Input should be greater than 0"),
    ],
)
def test_a_seed_sd_that_cannot_be_had_is_named(twins, tmp_path, seed_sd, says):
    with pytest.raises(DataError, match=says):
        analyse(restated(twins, tmp_path, seed_sd))


def test_another_study_of_one_seed_cannot_tell(twins, tmp_path):
    with pytest.raises(DataError, match="has no arm with two finished seeds"):
        analyse(restated(twins, tmp_path, str(twins)))


def test_several_seeds_show_the_luck_of_runs_themselves(make_study):
    analysis = analyse(make_study(arms=("vit", "vmamba"), seeds=(1, 2), seed_sd={"vqa": 50.0}))
    assert analysis.seeds["vqa"].source == "measured here"
    assert analysis.seeds["vqa"].freedom == 2.0
    assert analysis.seeds["vqa"].sd < 50
    assert all(pair.over_seeds for pair in (*analysis.averages, *analysis.benchmarks))


def test_no_spread_and_no_chance_are_no_detectable_difference(make_study):
    study = gather(make_study(arms=("vit", "vmamba"), seeds=(1, 2), num_examples=12))
    vit, vmamba = study.arms
    lucky, unlucky = vmamba.runs
    for run, score in ((lucky, 1.0), (unlucky, 0.0)):
        run.predictions = [replace(one, score=one.score * 0 + score) for one in run.predictions]
    pairs = compare_averages(study, spreads=seed_spreads(study))
    assert all(pair.detectable is None for pair in pairs)
    texts = " ".join(finding.text for finding in judge(study, pairs, seeds=seed_spreads(study)).findings)
    assert "so few seeds and images could not show any difference, however large" in texts
    for run in (*vit.runs, *vmamba.runs):
        run.predictions = [replace(one, score=one.score * 0 + 1.0) for one in run.predictions]
    assert all(pair.detectable is None for pair in compare_averages(study, spreads=seed_spreads(study)))


def test_weights_that_classify_far_worse_are_a_confound_in_the_headline(results, pairs):
    accuracies = {"vit": 45.0, "maxvit": 92.0, "vmamba": 96.0, "mambavision": 95.0}
    known = Predictor("accuracy", "top-1 accuracy", accuracies, {})
    (caveat,) = weak_weights([known])
    assert "**vit** (45.0%)" in caveat
    assert "maxvit" not in caveat
    headline = judge(results, pairs, caveats=[caveat]).headline
    assert headline.startswith("**vmamba** leads in localization")
    assert headline.endswith(caveat)
    assert weak_weights([replace(known, values=accuracies | {"vit": 86.0})]) == []
    assert weak_weights([]) == []


def test_the_json_says_what_the_words_say(twins):
    content = json.loads(json.dumps(as_json(analyse(twins))))
    assert content["seed_sd"] == {}
    pair = content["comparisons"]["averages"][0]
    assert (pair["told_apart"], pair["decided"], pair["over_seeds"], pair["detectable"]) == (True, False, False, None)


@pytest.mark.parametrize(("freedom", "share"), [(None, "four of five"), (6, "about two of three")])
def test_the_page_says_how_often_a_detectable_difference_is_detected(twins, tmp_path, page_of, freedom, share):
    stated = {"vqa": 10.0, "localization": 14.0} | ({} if freedom is None else {"df": freedom})
    analysis = analyse(restated(twins, tmp_path, stated))
    for text in (markdown(analysis), page_of(analysis)):
        assert f"{share} such studies would detect" in text
    said = " ".join(finding.text for finding in analysis.verdict.findings)
    assert f"would be detected in {share} such studies" in said
