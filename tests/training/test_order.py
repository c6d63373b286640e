import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from eyeswap.training.order import batch_order, count_words, dealt, order_digest, split_modality_order

# Recorded from the published sampler: 30 examples, batches of 8, two GPUs, seed 7.
HAS_IMAGE = [row % 5 != 3 for row in range(30)]
WORDS = [(7 * row * row + 3 * row) % 41 + 2 for row in range(30)]
PUBLISHED = [
    [16, 21, 22, 0, 7, 17, 26, 1],
    [28, 18, 18, 23, 13, 3, 8, 23],
    [2, 25, 11, 24, 5, 6, 15, 12],
    [10, 14, 9, 19, 20, 29, 27, 4],
]


@given(st.integers(1, 200), st.integers(1, 64), st.integers(1, 3), st.integers(0, 99))
def test_every_epoch_visits_every_example(examples: int, batch: int, epochs: int, seed: int):
    order = batch_order(examples, batch, epochs, seed)
    steps = -(-examples // batch)
    assert order.shape == (steps * epochs, batch)
    for epoch in order.reshape(epochs, -1):
        assert set(epoch[:examples].tolist()) == set(range(examples))


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 50)), min_size=1, max_size=120), st.integers(1, 16))
def test_split_modality_visits_every_example_and_never_mixes(examples: list[tuple[bool, int]], batch: int):
    has_image, words = zip(*examples, strict=True)
    order = split_modality_order(has_image, words, batch, 2, seed=7)
    for epoch in np.split(order, 2):
        assert set(epoch.flatten().tolist()) == set(range(len(examples)))
        assert all(len({has_image[row] for row in rows}) == 1 for rows in epoch)
        reckoned = [words[row] + 576 * has_image[row] for row in range(len(examples))]
        assert reckoned[epoch[0, 0]] == max(reckoned)


def test_split_modality_is_the_published_order():
    order = split_modality_order(HAS_IMAGE, WORDS, 8, 1, seed=7)
    assert [np.concatenate(dealt(rows, WORDS, 2)).tolist() for rows in order] == PUBLISHED
    assert np.array_equal(order[:2], split_modality_order(HAS_IMAGE, WORDS, 8, 1, seed=7, max_steps=2))


def test_the_mix_takes_the_published_number_of_steps():
    has_image = [row < 624_610 for row in range(665_298)]
    order = split_modality_order(has_image, [1] * 665_298, 128, 1, seed=7)
    assert order.shape == (5198, 128)


def test_dealing_changes_who_has_a_row_and_not_which_rows_there_are():
    rows = np.arange(24)
    for hands in (1, 2, 4, 8):
        shares = dealt(rows, WORDS, hands)
        assert sorted(np.concatenate(shares).tolist()) == rows.tolist()
        assert {len(share) for share in shares} == {24 // hands}


def test_words_are_counted_as_published():
    assert count_words(["<image>\nWhat is  this?", "A bus."]) == 6


def test_the_order_follows_the_seed_alone():
    first, again, other = (batch_order(100, 8, 2, seed) for seed in (7, 7, 8))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    ids = [str(row) for row in range(100)]
    assert order_digest(first, ids) == order_digest(again, ids) != order_digest(other, ids)
    assert order_digest(first, ids) != order_digest(first, ids[::-1])
