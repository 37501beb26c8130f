"""The networks: their split, their sizes, and no running statistics."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fedbabu.algorithms import Part
from fedbabu.errors import ConfigError
from fedbabu.models import HEAD_INITS, MODELS, build_model


@pytest.mark.parametrize(
    ("name", "num_classes", "parameters"),
    [
        # Appendix A.1: 4 convolutions of 64 with bias, 4 BatchNorms, Linear(256, classes).
        ("FourConvNet", 10, (3 * 9 + 1) * 64 + 3 * (64 * 9 + 1) * 64 + 4 * 128 + 257 * 10),
        ("MobileNet", 10, 3_217_226),  # the network for 32×32 images that the paper's footnote 10 names
        ("MobileNet", 100, 3_217_226 + 90 * 1025),
    ],
)
def test_parameter_counts(name, num_classes, parameters):
    model = build_model(name, (3, 32, 32), num_classes, seed=0)
    assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_is_of_the_body_or_of_the_linear_head(name):
    model = build_model(name, (3, 32, 32), 10, seed=0)
    state = model.state_dict()
    body, head = Part.BODY.names(state), Part.HEAD.names(state)
    assert sorted(body + head) == sorted(Part.FULL.names(state)) == sorted(state)
    assert head == ["head.weight", "head.bias"]
    assert Part.NOTHING.names(state) == []
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize("name", MODELS)
def test_batch_norm_has_no_running_statistics(name):
    model = build_model(name, (3, 32, 32), 10, seed=0)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    assert all(norm.running_mean is None and not norm.track_running_stats for norm in norms)
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(images), model.train()(images))


def test_pooling_before_relu_is_the_papers_network():
    model = build_model("FourConvNet", (3, 32, 32), 10, seed=1)
    images = torch.randn(8, 3, 32, 32)
    x = images
    for block in list(model.body)[:4]:
        convolution, norm, *_ = block
        x = torch.max_pool2d(torch.relu(norm(convolution(x))), 2)
    torch.testing.assert_close(model(images), model.head(x.flatten(1)))
    assert model.head.in_features == 256


@pytest.mark.parametrize("name", MODELS)
def test_the_seed_decides_the_parameters_and_leaves_other_randomness_alone(name):
    torch.manual_seed(5)
    before = torch.rand(1)
    torch.manual_seed(5)
    one, again, other = (build_model(name, (3, 32, 32), 10, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), before)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), again.parameters(), strict=True))
    assert not torch.equal(one.head.weight, other.head.weight)


def test_images_that_are_too_small():
    with pytest.raises(ConfigError, match=r"'FourConvNet' needs images of at least 16×16 pixels, .* are 8×20"):
        build_model("FourConvNet", (1, 8, 20), 10, seed=0)


def similarity_of_rows(weight):
    """The mean cosine similarity between different rows, and the rows' norms."""
    rows = F.normalize(weight)
    cosines = rows @ rows.T
    return (cosines.sum() - cosines.trace()) / (len(rows) * (len(rows) - 1)), weight.norm(dim=1)


@pytest.mark.parametrize("name", HEAD_INITS)
def test_head_initializations(name):
    model = build_model("FourConvNet", (3, 32, 32), 10, seed=3, head_init=name)
    default = build_model("FourConvNet", (3, 32, 32), 10, seed=3)
    for key, value in model.body.state_dict().items():
        assert torch.equal(value, default.body.state_dict()[key])
    weight = model.head.weight.detach()
    similarity, norms = similarity_of_rows(weight)
    if name == "similar":  # Appendix B, footnote 13
        assert similarity > 0.99
        torch.testing.assert_close(norms, torch.ones(10))
        assert (weight.amin(dim=1) / weight.amax(dim=1)).min() > 0.45 / 0.55
    elif name == "orthogonal":
        torch.testing.assert_close(weight @ weight.T, torch.eye(10), atol=1e-6, rtol=0)
    else:
        assert abs(similarity) < 0.02
    # PyTorch's He uniform is U(-1/√d, 1/√d); Xavier's a and σ are the paper's, with the √2 of ReLU.
    bounds = {"he": 1 / 16, "xavier-uniform": 2**0.5 * (6 / 266) ** 0.5}
    if name in bounds:
        assert 0.98 * bounds[name] < weight.abs().max() <= bounds[name]
    if name == "xavier-normal":
        assert weight.std() == pytest.approx(2**0.5 * (2 / 266) ** 0.5, rel=0.05)


@pytest.mark.parametrize(("name", "blocks"), [("FourConvNet", 4), ("MobileNet", 14)])
def test_blocks_are_all_of_the_body(name, blocks):
    model = build_model(name, (3, 32, 32), 10, seed=0)
    assert len(model.blocks) == blocks
    in_blocks = [id(p) for block in model.blocks for p in block.parameters()]
    assert in_blocks == [id(p) for p in model.body.parameters()]
