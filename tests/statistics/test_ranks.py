"""Ranks promise no more than what is shown about pairs."""

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from eyeswap.statistics.ranks import rank_intervals, with_implied


def p_values(n, small=()):
    return {pair: 1e-6 if pair in small else 1.0 for pair in combinations(range(n), 2)}


def test_without_any_proof_every_place_is_possible():
    ranks = rank_intervals([50.0, 60.0, 55.0], p_values(3))
    assert [(one.value, one.low, one.high) for one in ranks] == [(3, 1, 3), (1, 1, 3), (2, 1, 3)]


def test_one_that_is_shown_to_be_behind_all_is_last():
    ranks = rank_intervals([50.0, 60.0, 55.0], p_values(3, {(0, 1), (0, 2)}))
    assert [(one.low, one.high) for one in ranks] == [(3, 3), (1, 2), (1, 2)]


def test_proofs_of_all_pairs_fix_every_place():
    ranks = rank_intervals([1.0, 2.0, 3.0, 4.0], p_values(4, set(combinations(range(4), 2))))
    assert [(one.low, one.value, one.high) for one in ranks] == [(4, 4, 4), (3, 3, 3), (2, 2, 2), (1, 1, 1)]


def test_equal_scores_share_the_better_place():
    assert [one.value for one in rank_intervals([7.0, 7.0, 5.0], p_values(3))] == [1, 1, 3]


def test_what_two_pairs_show_together_is_shown():
    implied = with_implied({(0, 1): 0.01, (1, 2): 0.03, (0, 2): 0.2})
    assert implied == {(0, 1): 0.01, (1, 2): 0.03, (0, 2): 0.03}
    assert with_implied({(0, 1): 0.2, (1, 2): 0.03, (0, 2): 0.01})[0, 1] == 0.2


@given(st.integers(2, 7), st.randoms())
def test_what_is_shown_is_an_order_and_ranks_overlap_where_nothing_is(n, random):
    pairs = with_implied({pair: random.random() ** 3 for pair in combinations(range(n), 2)})
    shown = {pair for pair, p in pairs.items() if p < 0.05}
    assert all((i, j) in shown for i, middle in shown for also, j in shown if also == middle)
    ranks = rank_intervals([float(-i) for i in range(n)], pairs)
    for i, j in pairs:
        assert ((i, j) in shown) or ranks[i].high >= ranks[j].low


@given(st.lists(st.floats(0, 100), min_size=2, max_size=6), st.randoms())
def test_the_place_seen_is_always_among_the_possible(values, random):
    ranks = rank_intervals(values, {pair: random.random() ** 4 for pair in combinations(range(len(values)), 2)})
    for one in ranks:
        assert 1 <= one.low <= one.high <= len(values)
