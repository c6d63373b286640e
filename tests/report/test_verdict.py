from dataclasses import replace

from eyeswap.report.analysis.pairs import compare_averages
from eyeswap.report.analysis.predictors import Predictor
from eyeswap.report.analysis.study import gather
from eyeswap.report.analysis.verdict import judge
from eyeswap.statistics.correlation import correlate
from eyeswap.statistics.equivalence import Equivalence


def test_the_headline_says_what_is_decided_and_what_is_not(results, pairs):
    verdict = judge(results, pairs)
    assert verdict.headline == "**vmamba** leads in localization; VQA is not decided."
    kinds = [finding.kind for finding in verdict.findings]
    assert kinds[:3] == ["decided", "open", "open"]
    assert "360 questions do not tell the arms apart" in verdict.findings[1].text
    assert "against" not in verdict.findings[0].text
    assert verdict.findings[2].text == "Localization: not decided: **maxvit** against **vit**."


def test_nothing_decided_is_said_aloud(results, pairs):
    verdict = judge(results, [replace(pair, p=1.0) for pair in pairs])
    assert verdict.headline == "Not decided: the arms are not told apart in VQA or in localization."
    assert not any(finding.kind == "decided" for finding in verdict.findings)


def test_a_shared_lead_is_called_shared(results, pairs):
    def tie(pair):
        same = {pair.ahead, pair.behind} == {"vmamba", "mambavision"}
        return replace(pair, p=1.0) if same else pair

    headline = judge(results, [tie(pair) for pair in pairs]).headline
    assert headline == "**vmamba** and **mambavision** share the lead in localization; VQA is not decided."


def test_one_that_trails_is_named_instead_of_all_who_lead(results, pairs):
    behind = [replace(pair, p=0.0 if pair.behind == "vit" else 1.0) for pair in pairs]
    behind = [pair for pair in behind if pair.ahead != "vit"]
    headline = judge(results, behind).headline
    assert headline.startswith("**vit** trails in ")
    assert headline.endswith("the other three are not told apart from the best.")


def test_one_leader_everywhere_is_said_once(results, pairs):
    sure = [replace(pair, p=0.0) if pair.ahead == "vmamba" else pair for pair in pairs]
    assert judge(results, sure).headline == "**vmamba** leads in VQA and in localization."


def test_one_seed_is_a_caution(results, pairs):
    cautions = [finding.text for finding in judge(results, pairs).findings if finding.kind == "warning"]
    assert any(text.startswith("One seed per arm") for text in cautions)


def test_arms_below_the_baseline_are_named(make_study):
    results = gather(make_study(num_examples=25))
    texts = [finding.text for finding in judge(results, compare_averages(results)).findings]
    below = next(text for text in texts if text.startswith("Not above the trivial baseline"))
    for arm in results.arms:
        for group, words in (("vqa", "VQA"), ("localization", "localization")):
            named = f"**{arm.name}** in {words}" in below
            assert named != arm.scores.averages[group].beats_baseline


def test_several_seeds_are_told(make_study):
    results = gather(make_study(arms=("vit", "maxvit"), seeds=(1, 2)))
    texts = [finding.text for finding in judge(results, compare_averages(results)).findings]
    assert any(text.startswith("2 seeds per arm") for text in texts)


def test_what_few_arms_cannot_show_is_said(results, pairs):
    accuracies = {"vit": 70.0, "maxvit": 80.0, "vmamba": 90.0, "mambavision": 85.0}
    scores = [arm.scores.averages["vqa"].value for arm in results.finished_arms]
    spearman = correlate([accuracies[arm.name] for arm in results.finished_arms], scores)
    kendall = correlate([accuracies[arm.name] for arm in results.finished_arms], scores, "kendall")
    known = Predictor("accuracy", "accuracy", accuracies, {"vqa": [spearman, kendall]})
    text = next(f.text for f in judge(results, pairs, [known]).findings if f.text.startswith("Rank correlation"))
    assert f"{spearman.value:+.2f}" in text
    assert "With 4 arms no order reaches a p-value below 0.083, so this cannot be decided." in text


def test_arms_shown_to_be_equal_are_named(results, pairs):
    close = replace(pairs[-1], p=1.0, equivalence=Equivalence(1.0, 0.01, 0.01))
    texts = [
        finding.text for finding in judge(results, [replace(pair, p=1.0) for pair in pairs[:-1]] + [close]).findings
    ]
    assert close.where == "overall"  # said for groups alone
    assert not any("as good as each other" in text for text in texts)
    near = [replace(pair, p=1.0, equivalence=Equivalence(1.0, 0.01, 0.01)) for pair in pairs if pair.where == "vqa"]
    texts = [
        finding.text for finding in judge(results, near + [pair for pair in pairs if pair.where != "vqa"]).findings
    ]
    assert any(text.startswith("Within 1 points, as good as each other in VQA: ") for text in texts)


def test_one_finished_arm_cannot_be_compared(make_study):
    results = gather(make_study(arms=("vit", "vmamba"), unfinished=("vmamba",)))
    verdict = judge(results, compare_averages(results))
    assert verdict.headline == "Not decided: there are no two finished arms to compare."
    assert any("**vmamba** (seed 7: no scores yet" in finding.text for finding in verdict.findings)
