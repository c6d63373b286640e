"""Pairs of arms: what is decided about them, over images and over seeds."""

from copy import copy
from dataclasses import replace

import numpy as np
import pytest

from eyeswap.errors import DataError
from eyeswap.report.analysis.pairs import compare_averages, compare_benchmarks, rank_arms
from eyeswap.report.analysis.seeds import paired_seeds, seed_spreads
from eyeswap.report.analysis.study import gather


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


def test_single_benchmarks_have_mcnemar_where_answers_are_right_or_wrong(results):
    found = {(p.where, p.behind, p.ahead): p for p in compare_benchmarks(results)}
    pair = found["refcoco", "vit", "vmamba"]
    right = {arm.name: arm.predictions[3].score == 1 for arm in results.arms}
    assert pair.mcnemar.only_first == int((right["vmamba"] & ~right["vit"]).sum())
    assert pair.mcnemar.only_second == int((right["vit"] & ~right["vmamba"]).sum())
    assert pair.mcnemar.p < 0.01
    assert all(pair.mcnemar is None for (where, *_), pair in found.items() if where == "vqav2")  # soft scores


def test_ranks_agree_with_what_is_decided(pairs):
    ranks = rank_arms(pairs)
    for group, places in ranks.items():
        for arm, rank in places.items():
            beaten_by = sum(p.decided for p in pairs if (p.where, p.behind) == (group, arm))
            ahead_of = sum(p.decided for p in pairs if (p.where, p.ahead) == (group, arm))
            assert rank.low == 1 + beaten_by
            assert rank.low <= rank.value <= rank.high == len(places) - ahead_of
    assert ranks["localization"]["vmamba"].high == 1


def test_a_margin_wide_enough_makes_all_equal_and_a_narrow_one_none(results):
    spreads = seed_spreads(results)
    wide = compare_averages(results, 90.0, spreads)
    assert {pair.in_words for pair in wide} <= {"decided", "equivalent"}
    narrow = compare_averages(results, 0.01, spreads)
    assert {pair.in_words for pair in narrow} <= {"decided", "not decided"}
    with pytest.raises(DataError, match=r"margin -1\.0: must be above 0"):
        compare_averages(results, margin=-1.0)


def test_one_lucky_seed_decides_nothing(make_study):
    study = gather(make_study(arms=("vit", "vmamba"), seeds=(1, 2, 3)))
    vit, lucky = study.arms
    runs = [copy(run) for run in lucky.runs]
    for number, run in enumerate(runs):
        run.predictions = [
            replace(one, score=np.ones_like(one.score) if number == 0 else same.score)
            for one, same in zip(run.predictions, vit.runs[number].predictions, strict=True)
        ]
    pairs = compare_averages(replace(study, arms=[vit, replace(lucky, runs=runs)]))
    assert all(pair.value > 5 and pair.low < 0 for pair in pairs)
    assert not any(pair.decided for pair in pairs)
    alone = compare_averages(replace(study, arms=[replace(vit, runs=vit.runs[:1]), replace(lucky, runs=runs[:1])]))
    assert all(pair.told_apart for pair in alone)
    assert not any(pair.decided for pair in alone)


def test_arms_are_paired_on_the_seeds_that_all_have(make_study):
    study = gather(make_study(arms=("vit", "vmamba"), seeds=(1, 2)))
    vit, vmamba = study.arms
    late = replace(study, arms=[replace(vit, runs=vit.runs[1:]), vmamba])
    assert paired_seeds(late.arms) == [2]
    alone = replace(study, arms=[replace(arm, runs=arm.runs[1:]) for arm in study.arms])
    assert compare_averages(late) == compare_averages(alone)


def test_images_and_subsets_weigh_in_pairs_as_in_scores(results, pairs):
    for pair in pairs:
        ahead, behind = (next(a for a in results.arms if a.name == name) for name in (pair.ahead, pair.behind))
        scores = [arm.scores.averages[pair.where].value for arm in (ahead, behind)]
        assert pair.value == pytest.approx(scores[0] - scores[1], abs=2e-4)
