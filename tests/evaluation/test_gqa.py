from __future__ import annotations

import pytest

from eyeswap.data.formats import Example
from eyeswap.evaluation import get_benchmark
from eyeswap.evaluation.gqa import count_steps


def asked(number, truth="yes", **details):
    return Example(str(number), "i.jpg", "i", "testdev", "verify", "Is it?", truth, details=details)


def summary(pairs, mode="official"):
    benchmark = get_benchmark("gqa", mode)
    return benchmark.aggregate([benchmark.score(example, answer) for example, answer in pairs])


def test_steps_that_only_look_up_do_not_count():
    assert count_steps([["select", "dog"], ["exist", "?"], ["query", "name"], ["query", "color"]]) == 2


def test_consistency_is_the_mean_over_right_answers_of_the_accuracy_on_what_they_entail():
    details = summary(
        [
            (asked(1, entailed=["1", "2", "3"]), "yes"),  # right; of 2 and 3 one is right
            (asked(2, entailed=["1"]), "Yes."),  # right; 1 is right
            (asked(3, entailed=["2"]), "no"),  # wrong: does not count
            (asked(4, entailed=["99"]), "yes"),  # right; what it entails was not asked
        ]
    )["details"]
    assert details["consistency"] == pytest.approx(100 * (0.5 + 1) / 2)


def test_validity_and_plausibility_look_the_answer_up():
    lists = {"valid": ["yes", "no"], "plausible": ["yes"]}
    details = summary([(asked(1, **lists), "no"), (asked(2, **lists), "a dog"), (asked(3), "yes")])["details"]
    assert details["validity"] == pytest.approx(50)
    assert details["plausibility"] == 0


def test_what_the_files_do_not_allow_is_none_with_a_reason():
    result = summary([(asked(1), "yes")])
    for name in ("consistency", "validity", "plausibility", "grounding"):
        assert result["details"][name] is None
        assert result["reasons"][name]


def test_both_modes_score_alike_and_the_study_leaves_the_further_metrics_out():
    pairs = [(asked(1), "Yes!"), (asked(2), "no"), (asked(3, "t-shirt"), "t-shirt")]
    study, official = summary(pairs, "study"), summary(pairs)
    assert study["score"] == official["score"] == pytest.approx(100 / 3)
    assert "consistency" not in study["details"]
