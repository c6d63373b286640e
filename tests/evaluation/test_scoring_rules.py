"""The published rules of scoring, each tried where slips are likely; slips of the published scorers included."""

from __future__ import annotations

import math
import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eyeswap.data.formats import Example
from eyeswap.errors import DataError
from eyeswap.evaluation import get_benchmark
from eyeswap.evaluation.boxes import iou, parse_box
from eyeswap.evaluation.gqa import clean_gqa
from eyeswap.evaluation.hallucination import say_yes_or_no
from eyeswap.evaluation.text import (
    CONTRACTIONS,
    VIZWIZ_CONTRACTIONS,
    normalise_answer,
    normalise_textvqa,
    strip_punctuation,
)
from eyeswap.evaluation.vqa import score_textvqa, score_vizwiz, score_vqa_official, score_vqa_study

MARKS = ';/[]"{}()=+\\_-><@`,?!'
texts = st.text(alphabet=st.sampled_from(MARKS + ".:' \n\tab01,AB\u0663\u00e9"), max_size=30)


@pytest.mark.parametrize(
    ("text", "box"),
    [
        (" \t[0.1, 0.2, 0.3, 0.4]", (0.1, 0.2, 0.3, 0.4)),
        ("[0.1,\n0.2,\n\n0.3, 0.4]", (0.1, 0.2, 0.3, 0.4)),
        ("[0.1, 0.2, 0.3, 0.4,]", (0.1, 0.2, 0.3, 0.4)),
        ("[0.1, 0.2, 0.3, 0.4] # there", (0.1, 0.2, 0.3, 0.4)),
        ("[0.1, 0.2, 0.3, 0.4]\n", (0.1, 0.2, 0.3, 0.4)),
        ("[0_0, 0.1_5, 0x1, 0b1]", (0, 0.15, 1, 1)),
        ("[+0.1, False, .5, True]", (0.1, 0, 0.5, 1)),
        ("[1e-999, 0e0, 1., 1E-1]", (0, 0, 1, 0.1)),
        ("[-0.0, 0, 0.5, 5e-1]", (0, 0, 0.5, 0.5)),
        ("([0.1, 0.2, 0.3, 0.4])", (0.1, 0.2, 0.3, 0.4)),
    ],
)
def test_odd_but_whole_lists_are_boxes(text: str, box: tuple[float, ...]) -> None:
    assert parse_box(text) == box


@pytest.mark.parametrize(
    "text",
    [
        "[0.1, 0.2, 0.3, 0.4].", "[0.1, 0.2, 0.3, 0.4]</s>", "(0.1, 0.2, 0.3, 0.4)", "[[0.1, 0.2, 0.3, 0.4]]",
        "[0.3, 0.2, 0.1, 0.4]", "[0.1, 0.2, 0.1, 0.4]", "[0.1, 0.2, 0.3]", "[0.1, 0.2, 0.3, 0.4, 0.5]",
        "[0.1, 0.2, 0.3, 1.01]", "[-0.01, 0.2, 0.3, 0.4]", "[nan, 0.2, 0.3, 0.4]", "[0.1, 0.2, 0.3, inf]",
        "[0, 0, 1e999, 1]", "['0.1', 0.2, 0.3, 0.4]", "[0.1, 0.2, 0.3j, 0.4]", "[None, 0.2, 0.3, 0.4]",
        "[[0.1], 0.2, 0.3, 0.4]", "[0.1 0.2 0.3 0.4]", "[0.1; 0.2; 0.3; 0.4]", "[01, 0.2, 0.3, 0.4]",
        "[\uff10, 0.2, 0.3, 0.4]", "{0.1, 0.2, 0.3, 0.4}", "[0.1, 0.2, 0.3, 0.4", "0.1, 0.2, 0.3, 0.4", "[]", "", " ",
        "box: [0.1, 0.2, 0.3, 0.4]", "[0.1, 0.2, 0.3, 0.4] [0, 0, 1, 1]", "[0.1, 0.2, 0.3, 0.4]\x00",
        "[" * 300 + "]" * 300, "-" * 20_000 + "1", "\ud800",
    ],
)  # fmt: skip
def test_anything_else_is_invalid_and_never_an_error(text: str) -> None:
    assert parse_box(text) is None


@pytest.mark.parametrize("value", [None, 0.5, 3, ["no"], {"a": 1}, b"[0, 0, 1, 1]", math.nan])
def test_what_is_no_text_has_no_score(value: object) -> None:
    assert parse_box(value) is None
    assert say_yes_or_no(value) is None
    assert score_textvqa(value, ["yes"] * 10) is None
    for scorer in (score_vqa_study, score_vqa_official, score_vizwiz):
        with pytest.raises(DataError, match="must be text"):
            scorer(value, ["yes"] * 10)
    for clean in (normalise_answer, normalise_textvqa, clean_gqa):
        with pytest.raises(DataError, match="must be text"):
            clean(value)


@given(texts)
def test_a_mark_goes_if_it_touches_a_space_anywhere_or_a_number_has_a_comma_else_it_parts(text: str) -> None:
    kept = text
    for mark in MARKS:
        touches = re.search(re.escape(mark) + " | " + re.escape(mark), text)
        kept = kept.replace(mark, "" if touches or re.search(r"\d,\d", text) else " ")
    periods = [place for place, mark in enumerate(kept) if mark == "." and not kept[place + 1 : place + 2].isdecimal()]
    gone = set(periods[:32])
    assert strip_punctuation(text) == "".join(mark for place, mark in enumerate(kept) if place not in gone)


@given(st.lists(st.sampled_from([*CONTRACTIONS, "The", "a", "AN", "none", "Zero", "ten", "eleven", "dog"]), max_size=5))
def test_words_go_through_numbers_articles_and_contractions_in_this_order(words: list[str]) -> None:
    numbers = {"none": "0", "zero": "0", "ten": "10"}
    lower = [numbers.get(word.lower(), word.lower()) for word in words]
    expected = [CONTRACTIONS.get(word, word) for word in lower if word not in ("a", "an", "the")]
    assert normalise_answer(" ".join(words)).split() == " ".join(expected).split()


def test_contractions_with_a_capital_are_never_found() -> None:
    assert normalise_answer("Im Ive Id've") == "im ive id've"
    assert normalise_answer("somebody'd") == "somebodyd"
    assert normalise_answer("dont") == "don't"
    assert normalise_answer("dont", VIZWIZ_CONTRACTIONS) == "don`t"
    assert normalise_answer("cant couldntve", VIZWIZ_CONTRACTIONS) == "can't couldntve"


def test_digits_of_every_script_hold_a_period_and_a_comma() -> None:
    assert strip_punctuation("\u0663.\u0664") == "\u0663.\u0664"
    assert strip_punctuation("\u0663,\u0664") == "\u0663\u0664"
    assert strip_punctuation("a.\u00b2") == "a\u00b2"  # a superscript is no digit of the rule


def test_textvqa_parts_an_apostrophe_s_from_its_word() -> None:
    assert normalise_textvqa("Dog's, 1,000?") == normalise_textvqa("dog 's 1000")


@given(st.text(max_size=20))
def test_gqa_takes_marks_and_capitals_away_and_nothing_else(text: str) -> None:
    assert clean_gqa(text) == "".join(mark for mark in text if mark not in string.punctuation).lower()


def test_pope_reads_pieces_between_single_spaces_of_the_first_sentence() -> None:
    said_no = ["no", "No", "not", "It is not.", "no, there is", "a no b", "  no"]
    said_yes = ["", "NO", "No!", "isn't", "none", "yes. no", "no\n", "no\tcar", "nothing", ".no"]
    assert {say_yes_or_no(text) for text in said_no} == {"no"}
    assert {say_yes_or_no(text) for text in said_yes} == {"yes"}


unit = st.floats(0, 1)


@given(st.tuples(unit, unit, unit, unit), st.tuples(unit, unit, unit, unit))
def test_the_overlap_is_that_of_plain_arithmetic_to_the_last_bit(
    first: tuple[float, ...], second: tuple[float, ...]
) -> None:
    a, b = ((min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)) for x1, y1, x2, y2 in (first, second))
    inner = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    outer = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inner
    assert iou(a, b) == (inner / outer if outer > 0 else 0.0)


@pytest.mark.parametrize(("name", "threshold"), [("refcoco", 0.5), ("ocid-ref", 0.25)])
def test_an_overlap_of_exactly_the_threshold_is_right(name: str, threshold: float) -> None:
    asked = Example("1", "a.jpg", "a", "val", "", "the dog", (0.0, 0.0, 1.0, threshold))
    assert get_benchmark(name).score(asked, "[0, 0, 1, 1]").score == 1.0


@pytest.mark.parametrize("name", ["pope", "tallyqa"])
def test_probabilities_that_are_no_numbers_give_null_areas_with_a_reason(name: str) -> None:
    benchmark = get_benchmark(name)
    count = len(benchmark.choices)
    rows = [
        Example(
            str(n), "a.jpg", "a", part, "", "?", "yes" if name == "pope" and n % 2 else "no" if name == "pope" else n
        )
        for part in ("adversarial", "popular", "random", "simple", "complex")
        for n in range(16)
    ]
    outcomes = [benchmark.score(row, (math.nan,) + (0.5,) * (count - 1)) for row in rows]
    found = benchmark.aggregate(outcomes)
    empty = [key for key, value in found["details"].items() if value is None]
    assert any("roc_auc" in key for key in empty)
    assert all(found["reasons"][key] for key in empty if "accuracy" not in key)
    assert found["invalid_rate"] == 100
