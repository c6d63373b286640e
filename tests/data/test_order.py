import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from eyeswap.data.order import batch_order, order_digest


@given(st.integers(1, 200), st.integers(1, 64), st.integers(1, 3), st.integers(0, 99))
def test_every_epoch_visits_every_example(examples: int, batch: int, epochs: int, seed: int):
    order = batch_order(examples, batch, epochs, seed)
    steps = -(-examples // batch)
    assert order.shape == (steps * epochs, batch)
    for epoch in order.reshape(epochs, -1):
        assert set(epoch[:examples].tolist()) == set(range(examples))


def test_the_order_follows_the_seed_alone():
    first, again, other = (batch_order(100, 8, 2, seed) for seed in (7, 7, 8))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    ids = [str(row) for row in range(100)]
    assert order_digest(first, ids) == order_digest(again, ids) != order_digest(other, ids)
    assert order_digest(first, ids) != order_digest(first, ids[::-1])
