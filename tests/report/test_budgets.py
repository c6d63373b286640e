"""The best arm at every budget, and the differences as a square."""

from hypothesis import given
from hypothesis import strategies as st

from eyeswap.report import analyse
from eyeswap.report.analysis.costs import budgets, frontier
from eyeswap.report.style import short_names
from eyeswap.report.writers.page import difference_matrix


def test_no_cheaper_arm_beats_one_of_the_front():
    costs = {"a": 1.0, "b": 2.0, "c": 2.0, "d": 3.0}
    assert frontier(costs, {"a": 50.0, "b": 60.0, "c": 61.0, "d": 60.5}) == ["a", "c"]


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), min_size=1, max_size=8))
def test_every_arm_off_the_front_is_beaten_or_matched_by_one_on_it(points):
    costs = {str(i): float(cost) for i, (cost, _) in enumerate(points)}
    scores = {str(i): float(score) for i, (_, score) in enumerate(points)}
    front = frontier(costs, scores)
    for name in costs:
        assert name in front or any(costs[a] <= costs[name] and scores[a] >= scores[name] for a in front)
    assert [scores[name] for name in front] == sorted(scores[name] for name in front)


def test_costs_are_those_of_the_backbones(study_dir):
    found = {one.key: one for one in budgets(analyse(study_dir).results, [])}
    assert set(found) == {"tokens", "flops", "seconds", "parameters"}
    assert found["tokens"].equal
    assert set(found["tokens"].values.values()) == {64.0}
    assert found["parameters"].values["vit"] == 212_000
    assert all(3e8 < value < 6e8 for value in found["flops"].values.values())
    assert found["seconds"].values == {}


def test_the_square_is_antisymmetric_and_marks_what_is_decided(study_dir):
    analysis = analyse(study_dir)
    rows = difference_matrix(analysis, "localization")
    names = [name for name, _ in rows]
    assert names[0] == "vmamba"
    for i, (_, cells) in enumerate(rows):
        assert cells[i] is None
        for j, cell in enumerate(cells):
            if cell is not None:
                other = rows[j][1][i]
                assert (cell.value, cell.low, cell.high) == (-other.value, -other.high, -other.low)
                assert cell.mark == other.mark
    assert rows[0][1][3].mark == "*"


def test_short_names_stay_and_long_ones_lose_what_all_share():
    assert short_names(["vit", "vmamba"]) == {"vit": "vit", "vmamba": "vmamba"}
    long = ["in1k-224px-vit-small-letterbox", "in1k-224px-vit-base-letterbox"]
    assert list(short_names(long, {"vit"}).values()) == ["vit-small", "vit-base"]


@given(st.lists(st.from_regex(r"[abc]{1,3}(-[abc]{1,3}){0,8}", fullmatch=True), min_size=1, max_size=8, unique=True))
def test_short_names_tell_apart_whatever_was_told_apart(names):
    assert len(set(short_names(names).values())) == len(names)
