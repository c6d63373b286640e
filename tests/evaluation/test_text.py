from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eyeswap.evaluation.text import (
    CONTRACTIONS,
    VIZWIZ_CONTRACTIONS,
    normalise_answer,
    normalise_textvqa,
    strip_punctuation,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Yes.", "yes"),
        ("The two dogs", "2 dogs"),
        ("1,000", "1000"),
        ("ten,000", "10 000"),
        ("t-shirt", "t shirt"),
        ("dog, 1,2", "dog 12"),
        ("-5", "5"),
        ("3.5", "3.5"),
        (".5", ".5"),
        ("U.S.A", "usa"),
        ("dont", "don't"),
        ("im", "im"),
        ("none\tof it", "0 of it"),
        ("12:30 $5 50%", "12:30 $5 50%"),
    ],
)
def test_an_answer_is_normalised_as_published(text, expected):
    assert normalise_answer(text) == expected


def test_only_the_first_32_periods_are_deleted():
    assert strip_punctuation("a." * 40) == "a" * 32 + "a." * 8


def test_textvqa_deletes_commas_before_anything_else():
    assert normalise_textvqa("1,000 dogs, the dog's") == "1000 dogs dog 's"


def test_the_contraction_tables_have_120_entries_each():
    assert len(CONTRACTIONS) == len(VIZWIZ_CONTRACTIONS) == 120
    assert VIZWIZ_CONTRACTIONS["dont"] == "don`t"
    assert VIZWIZ_CONTRACTIONS["couldnt"] == "couldn't"


@given(st.text())
def test_normalising_never_fails_and_leaves_single_spaces(text):
    result = normalise_answer(text)
    assert result == " ".join(result.split())
