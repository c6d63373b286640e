"""A rule may end an answer early only if nothing that could follow changes any of its scores."""

from collections import Counter
from dataclasses import fields, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eyeswap.data.formats import Example
from eyeswap.evaluation import BENCHMARKS
from eyeswap.evaluation.gqa import clean_gqa
from eyeswap.evaluation.stopping import box_is_decided, num_plain_words, stop_rule, yes_no_is_decided
from eyeswap.evaluation.text import normalise_answer, normalise_textvqa, strip_punctuation

HUMAN = ("the t-shirt", "2 dogs", "dog's", "U.S.A", "1,000", "no", "Unanswerable", "yes", "o'clock", "$ 3.50")
BOX = (0.1, 0.2, 0.5, 0.9)
# fmt: off
WORDS = [
    "the", "a", "an", "dog", "dogs", "dogs'", "t", "-", "shirt", "T-Shirt", "2", "two", "no", "not", "No", "yes", "1",
    ",", "000", ".", "'s", "dont", "can't", "U.S.A", "unanswerable", "is", "$", "?", "é", "_", "`", "s", "red", "big",
]
BOX_WORDS = [
    "[", "]", "(", ")", "0.1", "0.2", "0.5", "0.9", ", ", ",", " ", "\n", "#", "\\", "1", "The box is ", "x", ".", "\t",
    "[0.1, 0.2, 0.5, 0.9]", "[0.10, 0.20, 0.50, 0.90", "(0.1, 0.2, 0.5, 0.9)", "[0, 0, 1, 1]", "+", "'", '"', "\ufeff",
]
# fmt: on
spaces = st.sampled_from(["", " ", "  ", "\n", "\t"])


def prose(fewest: int) -> st.SearchStrategy[str]:
    parts = st.lists(st.tuples(st.sampled_from(WORDS), spaces), min_size=fewest, max_size=30)
    return parts.map(lambda parts: "".join(part + space for part, space in parts))


box_text = st.tuples(
    st.sampled_from(["", "", "The box is ", "(", "# ", "[0.1, 0.2, 0.5, 0.9]", "(0.1, 0.2, 0.5, 0.9)"]),
    st.lists(st.sampled_from(BOX_WORDS), max_size=8).map("".join),
).map("".join)
num_decided: Counter[str] = Counter()  # so that no rule passes because it never applied


def example(name: str, human: tuple[str, ...]) -> Example:
    truth = {"gqa": human[0], "pope": "no", "refcoco": BOX}.get(name, human)
    return Example("1", "a.png", "a", "val", "kind", "what?", truth)


def assert_nothing_changes(name: str, mode: str, begun: str, rest: str, human: tuple[str, ...] = HUMAN) -> None:
    """Score an answer as begun and as continued; the generator strips both."""
    benchmark, asked = replace(BENCHMARKS[name], mode=mode), example(name, human)
    rule = stop_rule(benchmark, [asked])
    assert rule is not None
    if not begun.strip() or not rule(begun.strip()):
        return
    num_decided[name] += 1
    short, whole = (benchmark.score(asked, text.strip()) for text in (begun, begun + rest))
    kept = {field.name for field in fields(short)} - {"answer", "example"}
    assert {field: getattr(short, field) for field in kept} == {field: getattr(whole, field) for field in kept}


@pytest.mark.parametrize("mode", ["study", "official"])
@pytest.mark.parametrize("name", ["vqav2", "vizwiz", "textvqa-ocr", "gqa", "pope"])
@settings(max_examples=70, deadline=None)
@given(begun=prose(12), rest=prose(0))
def test_a_decided_text_scores_the_same_whatever_follows(name: str, mode: str, begun: str, rest: str):
    if (name == "pope" and mode == "study") or (name == "gqa" and mode == "official"):
        assert stop_rule(replace(BENCHMARKS[name], mode=mode), [example(name, HUMAN)]) is None
        return
    assert_nothing_changes(name, mode, begun, rest)
    whole = begun + rest  # the hardest human answers: those that the continued answer does match
    for human in (whole, strip_punctuation(whole), normalise_answer(whole), normalise_textvqa(whole), clean_gqa(whole)):
        assert_nothing_changes(name, mode, begun, rest, (human,) * 10)


@settings(max_examples=200, deadline=None)
@given(begun=box_text, rest=box_text | st.just(""))
def test_a_decided_box_is_the_same_whatever_follows(begun: str, rest: str):
    assert_nothing_changes("refcoco", "study", begun, rest)


@pytest.mark.parametrize(
    ("text", "is_decided"),
    [
        ("[0.10, 0.20, 0.50, 0.90]", False),  # the end makes it valid, prose behind it would not
        ("[0.10, 0.20, 0.50, 0.90] is", True),
        ("[0.10, 0.20, 0.50, 0.90] # no", False),  # a comment may go on for ever
        ("The dog is at [0.1, 0.2, 0.5, 0.9]", True),
        ("The dog is at [0.1, 0.2", False),  # the lenient reader waits
        ("([0.1, 0.2, 0.5, 0.9]", False),  # a list in parentheses is a list
        ("[[0.1, 0.2, 0.5, 0.9]", False),
        ("no box here", False),
    ],
)
def test_when_a_box_is_decided(text: str, is_decided: bool):
    assert box_is_decided(text) == is_decided


def test_when_yes_or_no_is_decided():
    assert not any(map(yes_no_is_decided, ("no", "yes", "yes it is", "nothing is", "not")))
    assert all(map(yes_no_is_decided, ("no way", "yes. no", "there is not one")))


def test_words_that_may_vanish_or_grow_are_not_counted():
    assert num_plain_words("The quick brown fox-like a dog, an animal") == 2
    assert num_plain_words("dog") == 0


def test_a_text_with_more_words_than_any_human_answer_is_hopeless():
    rule = stop_rule(BENCHMARKS["vqav2"], [example("vqav2", HUMAN)])
    assert rule is not None
    assert not rule("two big brown dogs")
    assert rule("two big brown dogs on the green grass")


def test_the_rules_did_apply():
    assert min(num_decided[name] for name in ("vqav2", "vizwiz", "textvqa-ocr", "gqa", "pope", "refcoco")) > 20
