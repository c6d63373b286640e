"""Making batches: workers, resuming and processes change who makes a batch, never what is in it."""

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_run import fresh, recipe, tiny_data

from eyeswap.backbones import catalog
from eyeswap.errors import DataError
from eyeswap.recipe import Execution
from eyeswap.training.batches import BatchLoader, BatchPlanner, Layout
from eyeswap.training.vision import LiveTokens


@pytest.fixture
def data(tiny_llm: Path):
    return tiny_data(fresh(tiny_llm), recipe(order="shuffled"))


def loader(data, execution: Execution, rank: int = 0, size: int = 1, workers: int = 0) -> BatchLoader:
    packs = execution.tokens_per_pass is not None
    planner = BatchPlanner.of(data, recipe(micro_batch=2), execution, size, packs)
    return BatchLoader(data, Layout(99, True, 0, packs), planner, rank, workers)


def contents(steps) -> list:
    found = []
    for passes in steps:
        for one, batch in passes:
            tensors = [value for value in vars(batch).values() if isinstance(value, torch.Tensor)]
            found.append((one, [tensor.tolist() for tensor in tensors]))
    return found


@pytest.mark.parametrize("execution", [Execution(), Execution(tokens_per_pass=48)])
def test_workers_give_the_same_batches_in_the_same_order(data, execution, monkeypatch):
    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    torch.manual_seed(3)
    drawn = torch.rand(1)
    torch.manual_seed(3)
    alone = contents(loader(data, execution).steps(0))
    assert contents(loader(data, execution, workers=2).steps(0)) == alone
    assert "TOKENIZERS_PARALLELISM" not in os.environ  # a fork after tokenizing would wait for ever
    assert len(alone) >= len(data.order)
    assert torch.rand(1).equal(drawn)


def test_a_resumed_run_meets_the_rest(data):
    one = loader(data, Execution(tokens_per_pass=48))
    first = sum(len(one.passes(step)) for step in range(3))
    assert contents(one.steps(3)) == contents(one.steps(0))[first:]


@pytest.mark.parametrize("execution", [Execution(), Execution(tokens_per_pass=48), Execution(tokens_per_pass=1)])
@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_global_batches_and_their_order_do_not_depend_on_processes_or_passes(data, execution, size):
    for step, rows in enumerate(data.order):
        passes = [one for rank in range(size) for one in loader(data, execution, rank, size).passes(step)]
        counted = sorted(row for one in passes if one.share for row in one.rows)
        assert counted == sorted(rows.tolist())


def test_the_order_is_drawn_from_data_recipe_and_seed_alone(tiny_llm: Path):
    def order(**changes: object) -> np.ndarray:
        return tiny_data(fresh(tiny_llm), recipe(**changes)).order

    assert np.array_equal(order(), order(micro_batch=1))
    assert np.array_equal(order(), order(loss="micro-batch-mean", micro_batch=2, published_gpus=1))
    assert not np.array_equal(order(), order(order="shuffled"))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_cannot_be_read_is_told_in_one_line(data, tmp_path, workers):
    geometry = catalog.entry("digits-vit").geometry
    data = dataclasses.replace(data, source=LiveTokens(geometry, tmp_path, num_tokens=4))
    with pytest.raises(DataError) as caught:
        next(loader(data, Execution(), workers=workers).steps(0))
    assert "\n" not in str(caught.value)
    assert "no such image" in str(caught.value)
