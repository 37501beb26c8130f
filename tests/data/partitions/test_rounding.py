"""Rounding a table without changing its sums."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedbabu.data.partitions.rounding import round_table


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_a_rounded_table_has_the_same_sums_of_columns_and_neighbouring_sums_of_rows(data):
    shape = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 8))
    rng = np.random.default_rng(data.draw(st.integers(0, 9999)))
    weights = rng.random(shape) * (rng.random(shape) < data.draw(st.floats(0.1, 1)))
    totals = rng.integers(0, data.draw(st.integers(1, 50)), shape[1]) * (weights.sum(axis=0) > 0)
    table = weights * (totals / np.maximum(weights.sum(axis=0), 1e-300))
    rounded = round_table(table, rng)
    assert np.array_equal(rounded.sum(axis=0), totals)
    assert np.abs(rounded - table).max() < 1
    assert np.abs((rounded - table).sum(axis=1)).max() < 1
    assert np.array_equal(round_table(rounded.astype(float), rng), rounded)


def test_the_columns_of_a_table_must_sum_to_integers():
    with pytest.raises(ValueError, match="integer"):
        round_table(np.array([[0.5], [0.4]]), np.random.default_rng(0))


def test_rounding_favours_no_row():
    """With a half for each of a thousand clients, the first five hundred get no more than by chance."""
    rounded = round_table(np.full((1000, 4), 0.5), np.random.default_rng(0))
    assert np.array_equal(rounded.sum(axis=1), np.full(1000, 2))
    assert all(200 < rounded[:500, label].sum() < 300 for label in range(4))
