"""The weighted sum does not depend on how clients are grouped into nodes."""

import pytest
import torch

from fedbabu.training.aggregation import weighted_sum


@pytest.mark.parametrize("counts", [[500] * 10, [180] * 9, [500, 137, 500, 20, 3, 77, 450, 451, 452, 1]])
def test_the_mean_is_the_same_bit_for_bit_for_every_grouping(counts):
    generator = torch.Generator().manual_seed(0)
    states = [({"w": 0.1 * torch.randn(400_000, generator=generator)}, count) for count in counts]
    whole = weighted_sum(states)["w"]
    assert whole.dtype == torch.float64
    assert torch.equal(whole, sum(state["w"].double() * count for state, count in states))
    for num_groups in (2, 3, 5):
        parts = [weighted_sum(states[group::num_groups]) for group in range(num_groups)]
        grouped = weighted_sum((part, 1) for part in parts)["w"]
        assert torch.equal((grouped / sum(counts)).float(), (whole / sum(counts)).float())
