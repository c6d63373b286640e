from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eyeswap.data.formats import Example
from eyeswap.errors import DataError
from eyeswap.evaluation import get_benchmark
from eyeswap.evaluation.benchmark import percent
from eyeswap.evaluation.vqa import percent_as_official, score_textvqa, score_vizwiz, score_vqa_study, soft_accuracy


@pytest.mark.parametrize(("matches", "score"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)])
def test_soft_accuracy_of_ten_answers(matches, score):
    assert soft_accuracy("dog", ["dog"] * matches + ["cat"] * (10 - matches)) == pytest.approx(score)


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=12), st.randoms())
def test_soft_accuracy_does_not_depend_on_the_order_of_answers(answers, random):
    shuffled = list(answers)
    random.shuffle(shuffled)
    assert soft_accuracy("a", answers) == pytest.approx(soft_accuracy("a", shuffled))


def test_the_study_leaves_capitals_of_human_answers():
    assert score_vqa_study("dog", ["Dog"] * 10) == 0
    assert score_vizwiz("dog", ["dog."] * 10) == 0


def test_impossible_numbers_of_answers_score_none():
    assert score_vqa_study("dog", []) is None
    assert score_textvqa("dog", ["dog"] * 9) is None
    asked = Example("7", "i.jpg", "1", "val", "x", "?", ("dog",) * 9)
    with pytest.raises(DataError, match="example 7: textvqa-pure cannot score 9 answers"):
        get_benchmark("textvqa-pure").score(asked, "dog")


def test_restored_apostrophes_differ_between_the_modes_of_vizwiz():
    asked = [
        Example(str(n), "i.jpg", "1", "x", "x", "?", (truth,) * 10, details={"answerable": 1})
        for n, truth in enumerate(["don\u2019t know", "don`t know", "can't"])
    ]
    answers = ["dont know", "dont know", "cant"]
    scores = {
        mode: [get_benchmark("vizwiz", mode).score(*pair).score for pair in zip(asked, answers, strict=True)]
        for mode in ("study", "official")
    }
    assert scores == {"study": [0, 1, 1], "official": [1, 0, 1]}


def test_the_official_scripts_multiply_before_they_divide():
    answers = [0.3] * 8 + [0.9] * 22 + [0.6] * 10
    assert percent_as_official(answers) == 100 * sum(answers) / 40
    assert percent(answers) == 100 * (sum(answers) / 40)
    assert percent_as_official([]) is None


def test_vizwiz_tells_unanswerable_apart():
    benchmark = get_benchmark("vizwiz")
    outcomes = [
        benchmark.score(
            Example(str(n), "i.jpg", "1", "x", "x", "?", ("dog",) * 10, details={"answerable": answerable}),
            answer,
        )
        for n, (answerable, answer) in enumerate([(0, "Unanswerable."), (0, "dog"), (1, "unanswerable"), (1, "dog")])
    ]
    details = benchmark.aggregate(outcomes)["details"]
    assert details["f1"] == pytest.approx(50)
    assert details["average_precision"] == pytest.approx(100 * (0.5 * 0.5 + 0.5 * 0.5))


def test_prompts_differ_by_benchmark():
    asked = Example("1", "i.jpg", "1", "val", "x", "What is it?", ("dog",) * 10)
    assert get_benchmark("gqa").user_message(asked) == (
        "What is it?\nAnswer the question using a single word or phrase."
    )
    assert "respond with 'Unanswerable'" in get_benchmark("vizwiz").user_message(asked)


def test_a_number_list_is_no_answer_to_a_text_question():
    asked = Example("1", "i.jpg", "1", "val", "x", "?", ("dog",) * 10)
    with pytest.raises(DataError, match="this benchmark scores text, found list"):
        get_benchmark("vqav2").score(asked, [0.5, 0.5])
