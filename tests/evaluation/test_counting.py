from __future__ import annotations

import math

import numpy as np
import pytest

from eyeswap.data.formats import Example
from eyeswap.data.formats.tallyqa import choice_message
from eyeswap.errors import DataError
from eyeswap.evaluation import get_benchmark


def asked(count, subset="simple", number=1):
    return Example(str(number), "i.jpg", "i", subset, "count", "How many dogs?", count)


def test_the_sixteen_counts_are_offered_as_letters():
    message = get_benchmark("tallyqa").user_message(asked(1)).splitlines()
    assert message[:3] == ["How many dogs?", "A. 0", "B. 1"]
    assert message[16:] == ["P. 15", "Answer with the option's letter from the given choices directly."]


def test_more_choices_than_letters_are_refused():
    with pytest.raises(DataError, match="26 choices, found 27"):
        choice_message("?", [str(n) for n in range(27)])


def test_the_first_of_equal_probabilities_answers():
    outcome = get_benchmark("tallyqa").score(asked(0), (1 / 16,) * 16)
    assert (outcome.answer, outcome.score, outcome.margin) == ("A", 1, 0)


def test_a_count_above_fifteen_is_wrong_and_has_no_margin():
    outcome = get_benchmark("tallyqa").score(asked(17), (1 / 16,) * 16)
    assert (outcome.score, outcome.margin, outcome.invalid) == (0, None, False)


@pytest.mark.parametrize(("text", "score"), [("3", 1), ("D", 1), (" D ", 1), ("4", 0), ("three", 0), ("²", 0)])
def test_text_may_be_a_letter_or_a_number(text, score):
    assert get_benchmark("tallyqa").score(asked(3), text).score == score


def test_nan_is_invalid():
    outcome = get_benchmark("tallyqa").score(asked(0), (math.nan,) * 16)
    assert (outcome.score, outcome.invalid) == (0, True)


def test_sixteen_probabilities_are_needed():
    with pytest.raises(DataError, match="16 probabilities, found 2"):
        get_benchmark("tallyqa").score(asked(0), (0.5, 0.5))


def test_areas_are_over_the_counts_that_occur_and_perfect_for_a_perfect_answerer():
    benchmark = get_benchmark("tallyqa")
    outcomes = [benchmark.score(asked(count, number=count), np.eye(16)[count].tolist()) for count in range(16)]
    summary = benchmark.aggregate(outcomes)
    assert summary["details"]["roc_auc/simple"] == pytest.approx(100)
    assert summary["details"]["pr_auc/final"] == pytest.approx(100)
    assert summary["details"]["accuracy/complex"] is None
    assert benchmark.aggregate(outcomes[1:])["details"]["roc_auc/final"] == pytest.approx(100)


def test_one_count_alone_has_no_pairs_and_counts_above_fifteen_no_area():
    benchmark = get_benchmark("tallyqa")
    alone = benchmark.aggregate([benchmark.score(asked(3, number=n), np.eye(16)[3].tolist()) for n in range(2)])
    assert (alone["details"]["roc_auc/final"], alone["details"]["pr_auc/final"]) == (None, pytest.approx(100))
    assert alone["reasons"]["roc_auc/final"] == "every example has the same count"
    assert "pr_auc/final" not in alone["reasons"]
    above = benchmark.aggregate([benchmark.score(asked(count, number=count), [1 / 16] * 16) for count in (3, 17)])
    assert above["details"]["pr_auc/final"] is None
    assert above["reasons"]["roc_auc/simple"] == "an example has a count above 15"


def test_the_error_in_counts_is_over_the_answers_that_are_a_count():
    benchmark = get_benchmark("tallyqa")
    pairs = [(asked(3), "D"), (asked(3, number=2), "5"), (asked(1, "complex", 3), "many"), (asked(4, number=4), "2")]
    summary = benchmark.aggregate([benchmark.score(example, answer) for example, answer in pairs])
    assert summary["details"]["rmse_counts/simple"] == pytest.approx(math.sqrt((0 + 4 + 4) / 3))
    assert summary["details"]["rmse_counts/complex"] is None
    assert summary["reasons"]["rmse_counts/complex"] == "no answer is a count"
