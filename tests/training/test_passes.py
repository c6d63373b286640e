"""Cutting global batches into passes: nothing lost, nothing twice, budgets kept, the same loss for every cut."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from tiny_run import recipe

from eyeswap.errors import SpecError
from eyeswap.recipe import Execution, Recipe
from eyeswap.training.batches import BatchPlanner, Pass
from eyeswap.training.order import dealt

batches = st.lists(st.tuples(st.integers(2, 300), st.integers(0, 40)), min_size=1, max_size=24)
ranks = st.integers(1, 9)
budgets = st.integers(1, 700)


def planner(examples, num_ranks: int, chosen: Recipe, execution: Execution = Execution(), packs=False) -> BatchPlanner:  # noqa: B008 - frozen
    lengths, targets = zip(*examples, strict=True)
    return BatchPlanner(chosen, execution, lengths, targets, lengths, num_ranks, packs)


def plan(one: BatchPlanner) -> list[list[Pass]]:
    return one.plan(np.arange(len(one.lengths)))


def of_size(count: int, **changes: object) -> Recipe:
    return recipe(global_batch=count, **changes)


def counted(turns: list[list[Pass]]) -> list[Pass]:
    return [one for turn in turns for one in turn if one.share]


def total_share(one: BatchPlanner, turns: list[list[Pass]]) -> float:
    return sum(done.share * one.num_targets[row] for turn in turns for done in turn for row in done.rows)


@given(batches, ranks, st.none() | budgets, st.booleans())
def test_every_conversation_counts_once_and_every_token_alike(examples, num_ranks, budget, packs):
    one = planner(examples, num_ranks, of_size(len(examples)), Execution(tokens_per_pass=budget), packs)
    turns = plan(one)
    assert all(len(turn) == num_ranks for turn in turns)
    seen = Counter(row for done in counted(turns) for row in done.rows)
    assert seen == Counter(range(len(examples)))
    assert len({done.share for done in counted(turns)}) == 1
    assert total_share(one, turns) == pytest.approx(1 if sum(one.num_targets) else 0)
    assert all(done.rows for turn in turns for done in turn)


@given(batches, ranks, budgets)
def test_packs_keep_to_the_budget_unless_one_conversation_is_longer(examples, num_ranks, budget):
    one = planner(examples, num_ranks, of_size(len(examples)), Execution(tokens_per_pass=budget), packs=True)
    for done in counted(plan(one)):
        assert sum(one.lengths[row] for row in done.rows) <= budget or len(done.rows) == 1


@given(batches, ranks, budgets)
def test_padded_passes_keep_to_the_budget_with_their_padding(examples, num_ranks, budget):
    one = planner(examples, num_ranks, of_size(len(examples)), Execution(tokens_per_pass=budget))
    for done in counted(plan(one)):
        assert max(one.lengths[row] for row in done.rows) * len(done.rows) <= budget or len(done.rows) == 1


@given(st.integers(1, 8), ranks, st.data())
def test_without_a_budget_no_pass_holds_more_than_a_micro_batch(size, num_ranks, data):
    examples = data.draw(st.lists(st.tuples(st.integers(2, 99), st.integers(1, 9)), min_size=size, max_size=size))
    micro = data.draw(st.sampled_from([count for count in range(1, size + 1) if size % count == 0]))
    turns = plan(planner(examples, num_ranks, of_size(size, micro_batch=micro)))
    assert all(len(done.rows) <= micro for done in counted(turns))


@given(st.integers(1, 6), st.integers(1, 3), st.integers(1, 6), st.data())
def test_the_published_loss_takes_the_published_micro_batches_whatever_the_processes(gpus, steps, micro, data):
    count = gpus * steps
    size = count * micro
    examples = data.draw(st.lists(st.tuples(st.integers(2, 99), st.integers(1, 9)), min_size=size, max_size=size))
    chosen = of_size(size, micro_batch=micro, loss="micro-batch-mean", published_gpus=gpus)
    alone = planner(examples, 1, chosen)
    shares = [share.tolist() for share in dealt(np.arange(size), alone.num_words, gpus)]
    expected = {tuple(share[at : at + micro]) for share in shares for at in range(0, len(share), micro)}
    for num_ranks in (1, 2, 3, 8):
        passes = counted(plan(planner(examples, num_ranks, chosen)))
        assert len(passes) == count
        assert {done.rows for done in passes} == expected
        for done in passes:  # the mean of a micro-batch, by the number of micro-batches
            assert done.share == pytest.approx(1 / (sum(alone.num_targets[row] for row in done.rows) * count))


def test_what_shares_a_micro_batch_depends_on_the_number_of_published_gpus():
    words = (9, 8, 7, 6, 5, 4, 3, 2)  # longest first, each to the GPU with the fewest words that has room
    examples = [(count, 1) for count in words]

    def cuts(gpus: int) -> list[tuple[int, ...]]:
        chosen = of_size(8, micro_batch=2, loss="micro-batch-mean", published_gpus=gpus)
        return [done.rows for done in counted(plan(planner(examples, 1, chosen)))]

    assert cuts(1) == [(0, 1), (2, 3), (4, 5), (6, 7)]
    assert cuts(2) == [(0, 3), (1, 2), (4, 7), (5, 6)]  # 9 6 5 2 and 8 7 4 3, each cut in order
    assert cuts(4) == [(0, 7), (1, 6), (2, 5), (3, 4)]


def test_a_global_batch_that_the_published_gpus_cannot_share_is_refused():
    with pytest.raises(
        ValidationError, match="global_batch 8 is not a multiple of published_gpus 8 times micro_batch 2"
    ):
        of_size(8, micro_batch=2, loss="micro-batch-mean")
    of_size(8, micro_batch=2, published_gpus=3)  # which decides nothing in the exact loss


def test_packing_wastes_less_than_padding():
    lengths = np.random.default_rng(0).lognormal(5.5, 0.7, 128).astype(int).clip(20, 2048)
    examples = [(int(length), 10) for length in lengths]
    packed = plan(planner(examples, 1, of_size(128), Execution(tokens_per_pass=8192), packs=True))
    padded = plan(planner(examples, 1, of_size(128), Execution(tokens_per_pass=8192)))
    (blind,) = plan(planner(examples, 1, of_size(128)))
    used = [sum(int(lengths[row]) for row in done.rows) for done in counted(packed)]
    assert len(used) == -(-int(lengths.sum()) // 8192)
    assert min(used) > 0.98 * max(used)  # no process waits for another
    area = sum(int(max(lengths[list(done.rows)])) * len(done.rows) for done in counted(padded))
    assert lengths.sum() < area < 1.3 * lengths.sum() < int(lengths.max()) * len(blind[0].rows)


def test_a_budget_and_the_published_loss_exclude_one_another():
    with pytest.raises(SpecError, match="tokens_per_pass"):
        planner([(4, 1)], 1, of_size(1, loss="micro-batch-mean", published_gpus=1), Execution(tokens_per_pass=8))
