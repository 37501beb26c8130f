"""The initializations of the head (Appendices B and Q)."""

import pytest
import torch

from fedbabu.models import HEAD_INITS, build_model, mean_row_cosine

pytestmark = pytest.mark.usefixtures("papers_width")


def test_the_mean_cosine_is_that_of_all_pairs_of_different_rows():
    rows = torch.randn(5, 7)
    pairs = [torch.cosine_similarity(rows[i], rows[j], dim=0) for i in range(5) for j in range(i)]
    assert mean_row_cosine(rows) == pytest.approx(torch.stack(pairs).mean().item(), abs=1e-6)


@pytest.mark.parametrize("name", HEAD_INITS)
def test_every_initialization_changes_the_head_only_and_is_the_papers(name):
    model = build_model("FourConvNet", (3, 32, 32), 10, seed=3, head_init=name)
    default = build_model("FourConvNet", (3, 32, 32), 10, seed=3)
    for key, value in model.body.state_dict().items():
        assert torch.equal(value, default.body.state_dict()[key])
    weight = model.head.weight.detach()
    similarity = mean_row_cosine(weight)
    if name == "similar":  # Appendix B, footnote 13
        assert similarity > 0.99
        torch.testing.assert_close(weight.norm(dim=1), torch.ones(10))
        assert (weight.amin(dim=1) / weight.amax(dim=1)).min() > 0.45 / 0.55
    elif name == "orthogonal":
        torch.testing.assert_close(weight @ weight.T, 2 * torch.eye(10), atol=1e-5, rtol=0)
    else:
        assert abs(similarity) < 0.02
    # PyTorch's default is U(-1/√d, 1/√d); the others' a and σ are the paper's, with the √2 of ReLU.
    bounds = {"he": 1 / 16, "he-uniform": (6 / 256) ** 0.5, "xavier-uniform": 2**0.5 * (6 / 266) ** 0.5}
    if name in bounds:
        assert 0.98 * bounds[name] < weight.abs().max() <= bounds[name]
    deviations = {"he-normal": (2 / 256) ** 0.5, "xavier-normal": 2**0.5 * (2 / 266) ** 0.5}
    if name in deviations:
        assert weight.std() == pytest.approx(deviations[name], rel=0.05)
    assert (model.head.bias == 0).all() == (name != "he")
