from dataclasses import replace

import pytest

from eyeswap.report.compare import compare_averages, compare_benchmarks
from eyeswap.report.gather import gather
from eyeswap.report.verdict import judge


@pytest.fixture(scope="module")
def results(study_dir):
    return gather(study_dir)


@pytest.fixture(scope="module")
def pairs(results):
    return compare_averages(results)


def test_every_pair_is_compared_in_every_average_with_the_better_arm_first(results, pairs):
    assert len(pairs) == 3 * 6
    for pair in pairs:
        scores = [
            next(arm for arm in results.arms if arm.name == name).scores.averages[pair.where].value
            for name in (pair.ahead, pair.behind)
        ]
        assert pair.value == pytest.approx(scores[0] - scores[1], abs=1e-3)
        assert pair.low <= pair.value <= pair.high
        assert pair.value >= 0


def test_a_large_difference_is_decided_and_a_small_one_is_not(pairs):
    found = {(pair.where, pair.ahead, pair.behind): pair for pair in pairs}
    assert found["localization", "vmamba", "vit"].decided
    assert not found["localization", "maxvit", "vit"].decided
    assert not any(pair.decided for pair in pairs if pair.where == "vqa")


def test_benchmarks_count_who_alone_is_right(results):
    pair = next(p for p in compare_benchmarks(results) if (p.where, p.behind, p.ahead) == ("refcoco", "vit", "vmamba"))
    right = {arm.name: arm.predictions[3].score >= 0.5 for arm in results.arms if arm.name in ("vit", "vmamba")}
    assert pair.only_ahead == int((right["vmamba"] & ~right["vit"]).sum())
    assert pair.only_behind == int((right["vit"] & ~right["vmamba"]).sum())
    assert pair.p_mcnemar < 0.01


def test_the_headline_says_what_is_decided_and_what_is_not(results, pairs):
    verdict = judge(results, pairs)
    assert verdict.headline == "**vmamba** leads in localization; VQA is not decided."
    kinds = [finding.kind for finding in verdict.findings]
    assert kinds[:2] == ["decided", "open"]
    assert "360 questions do not tell the arms apart" in verdict.findings[1].text
    assert "Not decided: **maxvit** against **vit**." in verdict.findings[0].text


def test_nothing_decided_is_said_aloud(results, pairs):
    verdict = judge(results, [replace(pair, p=1.0) for pair in pairs])
    assert verdict.headline == "Not decided: the arms are not told apart in VQA or in localization."
    assert not any(finding.kind == "decided" for finding in verdict.findings)


def test_a_shared_lead_is_called_shared(results, pairs):
    def tie(pair):
        same = {pair.ahead, pair.behind} == {"vmamba", "mambavision"}
        return replace(pair, p=1.0) if same else pair

    headline = judge(results, [tie(pair) for pair in pairs]).headline
    assert "**vmamba** and **mambavision** share the lead in localization" in headline


def test_one_leader_everywhere_is_said_once(results, pairs):
    sure = [replace(pair, p=0.0) if pair.ahead == "vmamba" else pair for pair in pairs]
    assert judge(results, sure).headline == "**vmamba** leads in VQA and in localization."


def test_one_seed_is_a_caution(results, pairs):
    cautions = [finding.text for finding in judge(results, pairs).findings if finding.kind == "warning"]
    assert any(text.startswith("One seed an arm") for text in cautions)


def test_arms_below_the_baseline_are_named(make_study):
    results = gather(make_study(num_examples=25))
    texts = [finding.text for finding in judge(results, compare_averages(results)).findings]
    below = next(text for text in texts if text.startswith("Not above the trivial baseline"))
    for arm in results.arms:
        for group, words in (("vqa", "VQA"), ("localization", "localization")):
            named = f"**{arm.name}** in {words}" in below
            assert named != arm.scores.averages[group].beats_baseline


def test_seeds_that_disagree_leave_a_difference_undecided(make_study):
    results = gather(make_study(arms=("vit", "maxvit", "vmamba"), seeds=(1, 2, 3)))
    pairs = compare_averages(results)
    for pair in pairs:
        ahead, behind = (next(a for a in results.arms if a.name == n) for n in (pair.ahead, pair.behind))
        differences = [
            a.scores.averages[pair.where].value - b.scores.averages[pair.where].value
            for a, b in zip(ahead.runs, behind.runs, strict=True)
        ]
        assert pair.seeds_agree == all(difference > 0 for difference in differences)
        assert not (pair.decided and not pair.seeds_agree)
    assert {pair.seeds_agree for pair in pairs} == {True, False}
    assert not replace(pairs[0], p=0.0, seeds_agree=False).decided
    assert any(f.text.startswith("3 seeds an arm") for f in judge(results, pairs).findings)


def test_one_finished_arm_cannot_be_compared(make_study):
    results = gather(make_study(arms=("vit", "vmamba"), unfinished=("vmamba",)))
    verdict = judge(results, compare_averages(results))
    assert verdict.headline == "Not decided: there are no two finished arms to compare."
    assert any("**vmamba** (seed 7: no scores yet" in finding.text for finding in verdict.findings)
