"""Pairs, ranks and words rest on the same tests: on whatever data, they never contradict each other."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_study import write_study

from eyeswap.report.analysis.pairs import compare_averages, rank_arms
from eyeswap.report.analysis.seeds import SeedSpread, seed_spreads, with_spreads
from eyeswap.report.analysis.study import Arm, gather
from eyeswap.report.analysis.verdict import IN_WORDS, judge, leaders
from eyeswap.results.scores import summarize


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """The results of one arm, asked one benchmark of each kind about twenty images."""
    folder = tmp_path_factory.mktemp("asked") / "synthetic"
    size = {"num_examples": 40, "num_images": 20}
    return gather(write_study(folder, arms=("vit",), benchmarks=("pope", "refcoco"), **size))


def drawn(results, seed, num_arms, num_seeds):
    """Return the results with random scores: arms of random skill, runs of random luck, images of random difficulty."""
    generator = np.random.default_rng(seed)
    template = results.finished_arms[0].runs[0]
    spread, luck = generator.choice([0.0, 0.05, 0.3]), generator.choice([0.0, 0.02, 0.2])
    arms = []
    for number in range(num_arms):
        skill = 0.5 + spread * generator.uniform(-1, 1, 2)
        runs = []
        for run in range(num_seeds):
            chance = np.clip(skill + luck * generator.standard_normal(2), 0, 1)
            scored = [
                replace(one, score=(generator.random(len(one.score)) < chance[int(one.group == "vqa")]).astype(float))
                for one in template.predictions
            ]
            scores = summarize(scored) if num_seeds == 1 else None
            runs.append(SimpleNamespace(seed=run, predictions=scored, scores=scores, record=template.record))
        arms.append(Arm(f"arm-{number}", runs, []))
    return replace(results, arms=arms, study=results.study | {"seed_sd": None})


@given(st.integers(0, 2**32 - 1), st.integers(2, 4), st.integers(1, 3), st.booleans())
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_pairs_ranks_and_words_never_contradict_each_other(asked, seed, num_arms, num_seeds, stated):
    made_up = drawn(asked, seed, num_arms, num_seeds)
    spreads = seed_spreads(made_up)
    if num_seeds == 1 and stated:
        spreads = {group: SeedSpread(1.0, 8.0, "stated in the study") for group in made_up.groups}
    made_up = with_spreads(made_up, spreads)
    pairs = compare_averages(made_up, spreads=spreads)
    ranks, verdict = rank_arms(pairs), judge(made_up, pairs, seeds=spreads)
    for group in made_up.groups:
        here = [pair for pair in pairs if pair.where == group]
        for pair in here:
            ahead, behind = ranks[group][pair.ahead], ranks[group][pair.behind]
            assert ahead.value <= behind.value
            assert pair.decided == (pair.told_apart and bool(spreads))
            if pair.told_apart:  # the loser is nowhere first, the winner nowhere last
                assert (behind.low, ahead.high) == (max(2, behind.low), min(num_arms - 1, ahead.high))
            else:  # the two may stand in either order
                assert ahead.high >= behind.low
        for name, rank in ranks[group].items():
            assert rank.low == 1 + sum(pair.told_apart for pair in here if pair.behind == name)
            assert rank.high == num_arms - sum(pair.told_apart for pair in here if pair.ahead == name)
            assert rank.low <= rank.value <= rank.high
        best = [arm.name for arm in leaders(made_up, group, pairs)]
        assert set(best) == {name for name, rank in ranks[group].items() if rank.low == 1}
        if len(best) == 1:
            assert ranks[group][best[0]].high == 1
        if group != "overall":
            check_words(verdict, group, here, best, bool(spreads))


def check_words(verdict, group, pairs, best, over_seeds):
    """Hold headline and findings against the pairs of one average."""
    said = " ".join([verdict.headline, *(finding.text for finding in verdict.findings)])
    title = IN_WORDS[group][0].upper() + IN_WORDS[group][1:]
    finding = next(one for one in verdict.findings if one.text.startswith(f"{title}: "))
    any_apart = any(pair.told_apart for pair in pairs)
    assert finding.kind == ("runs" if not over_seeds else "decided" if any_apart else "open")
    assert ("do not tell the arms apart" in finding.text) == (not any_apart)
    assert ("Every pair of arms is" in finding.text) == all(pair.told_apart for pair in pairs)
    if len(best) == 1:
        assert f"**{best[0]}**" in verdict.headline
        assert f"**{best[0]}**" in finding.text
    if not over_seeds:
        assert not any(word in said for word in ("leads", "lead in", "decided", "would be detected"))
        assert all(pair.detectable is None for pair in pairs)
