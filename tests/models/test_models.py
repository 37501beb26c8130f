"""The networks: their split in body and head, their sizes, and whether BatchNorm has running statistics."""

import pytest
import torch
import torchvision
from torch import nn
from torchvision.transforms.v2 import functional as tvf

from fedbabu.algorithms import Part
from fedbabu.models import MODELS, build_model
from fedbabu.models.base import BatchNormWithRunningStatistics

pytestmark = pytest.mark.usefixtures("papers_width")


@pytest.mark.parametrize(
    ("name", "num_classes", "parameters"),
    [
        # Appendix A.1: 4 convolutions of 64 with bias, 4 BatchNorms, Linear(256, classes).
        ("FourConvNet", 10, (3 * 9 + 1) * 64 + 3 * (64 * 9 + 1) * 64 + 4 * 128 + 257 * 10),
        # The networks for 32×32 images that the paper's footnote 10 names.
        ("MobileNet", 10, 3_217_226),
        ("MobileNet", 100, 3_217_226 + 90 * 1025),
        ("ResNet18", 10, 11_173_962),
        ("ResNet50", 10, 23_520_842),
        ("ResNet50", 100, 23_520_842 + 90 * 2049),
        # ResNet18 without the second residual block of each width: twice 3×3 of w × w, and two BatchNorms.
        ("ResNet10", 10, 11_173_962 - sum(2 * 9 * w**2 + 4 * w for w in (64, 128, 256, 512))),
    ],
)
def test_parameter_counts(name, num_classes, parameters):
    model = build_model(name, (3, 32, 32), num_classes, seed=0)
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_three_conv_net_has_the_size_that_the_paper_gives():
    model = build_model("ThreeConvNet", (1, 28, 28), 62, seed=0)
    assert model.head.in_features == 576  # Appendix A.1
    assert sum(p.numel() for p in model.parameters()) == 640 + 2 * (64 * 9 + 1) * 64 + 3 * 128 + 577 * 62


@pytest.mark.parametrize(("name", "blocks"), [("ResNet18", [2, 2, 2, 2]), ("ResNet50", [3, 4, 6, 3])])
def test_a_res_net_computes_the_same_as_torchvisions_with_another_first_convolution(name, blocks):
    model = build_model(name, (3, 32, 32), 10, seed=0)
    theirs = getattr(torchvision.models, name.lower())(num_classes=10, norm_layer=BatchNormWithRunningStatistics)
    theirs.conv1, theirs.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    assert [len(layer) for layer in (theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4)] == blocks
    theirs.load_state_dict(dict(zip(theirs.state_dict(), model.state_dict().values(), strict=True)))
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(model(images), theirs.to(memory_format=torch.channels_last)(images))


@pytest.mark.parametrize("name", MODELS)
def test_convolutions_have_pytorchs_default_initialization(name):
    for module in build_model(name, (3, 32, 32), 10, seed=0).modules():
        if isinstance(module, nn.Conv2d):
            bound = 1 / (module.weight[0].numel()) ** 0.5  # He uniform with a = √5
            assert 0.9 * bound < module.weight.abs().max() <= bound


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_belongs_to_the_body_or_to_the_linear_head(name):
    model = build_model(name, (3, 32, 32), 10, seed=0)
    state = model.state_dict()
    body, head = Part.BODY.names(state), Part.HEAD.names(state)
    assert sorted(body + head) == sorted(Part.FULL.names(state)) == sorted(state)
    assert head == ["head.weight", "head.bias"]
    assert Part.NOTHING.names(state) == []
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize("name", MODELS)
def test_only_res_nets_have_running_statistics(name):
    model = build_model(name, (3, 32, 32), 10, seed=0)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    tracks = name.startswith("ResNet")
    assert all(norm.track_running_stats == tracks for norm in norms)
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        trained, evaluated = model.train()(images), model.eval()(images)
    assert torch.allclose(trained, evaluated, atol=1e-5) != tracks


def test_running_statistics_are_shared_like_weights():
    state = build_model("ResNet10", (3, 32, 32), 10, seed=0).state_dict()
    statistics = [name for name in state if "running" in name]
    assert len(statistics) == 2 * sum("running_mean" in name for name in state) > 0
    assert set(statistics) <= set(Part.BODY.names(state))
    assert all(value.is_floating_point() for value in state.values())  # so that a mean over clients is not rounded


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("head_blocks", [1, 2])
def test_with_head_blocks_the_last_blocks_belong_to_the_head(name, head_blocks):
    whole = build_model(name, (3, 32, 32), 10, seed=0).eval()
    split = build_model(name, (3, 32, 32), 10, seed=0, head_blocks=head_blocks).eval()
    assert len(split.blocks) == len(whole.blocks) - head_blocks
    state = split.state_dict()
    moved = [parameter for block in whole.blocks[-head_blocks:] for parameter in block.state_dict().values()]
    expected = [*moved, whole.head.weight, whole.head.bias]
    in_head = [state[part] for part in Part.HEAD.names(state)]
    assert all(torch.equal(one, other) for one, other in zip(in_head, expected, strict=True))
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        assert split.features(images).dim() == 2
        torch.testing.assert_close(split(images), whole(images))


def test_at_least_one_block_stays_in_the_body():
    with pytest.raises(ValueError, match="at most 3"):
        build_model("FourConvNet", (3, 32, 32), 10, seed=0, head_blocks=4)


def test_pooling_before_relu_computes_the_same_as_pooling_after_relu():
    model = build_model("FourConvNet", (3, 32, 32), 10, seed=1)
    images = torch.randn(8, 3, 32, 32)
    x = images
    for block in list(model.body)[:4]:
        convolution, norm, *_ = block
        x = torch.max_pool2d(torch.relu(norm(convolution(x))), 2)
    torch.testing.assert_close(model(images), model.head(x.flatten(1)))
    assert model.head.in_features == 256


@pytest.mark.parametrize("name", MODELS)
def test_the_seed_decides_the_parameters_and_changes_no_other_random_numbers(name):
    torch.manual_seed(5)
    before = torch.rand(1)
    torch.manual_seed(5)
    one, again, other = (build_model(name, (3, 32, 32), 10, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), before)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), again.parameters(), strict=True))
    assert not torch.equal(one.head.weight, other.head.weight)


@pytest.mark.parametrize(
    ("name", "given", "taken"),
    [
        ("MobileNet", (1, 28, 28), (1, 32, 32)),
        ("MobileNet", (3, 32, 40), (3, 32, 40)),
        ("ResNet10", (1, 16, 24), (1, 32, 48)),
        ("FourConvNet", (1, 8, 20), (1, 16, 40)),
        ("FourConvNet", (3, 28, 28), (3, 28, 28)),
        ("ThreeConvNet", (1, 28, 28), (1, 28, 28)),
    ],
)
def test_images_that_are_too_small_for_a_network_are_enlarged(name, given, taken):
    model = build_model(name, given, 10, seed=0)
    assert model.image_shape == taken
    images = torch.rand(2, *given)
    bigger = tvf.resize(images, taken[1:], antialias=False)
    torch.testing.assert_close(model(images), model(bigger))
    assert model.features(images).shape == (2, model.head.in_features)


@pytest.mark.parametrize(
    ("name", "blocks"),
    [("ThreeConvNet", 3), ("FourConvNet", 4), ("MobileNet", 14), ("ResNet10", 5), ("ResNet18", 9), ("ResNet50", 17)],
)
def test_the_blocks_contain_all_parameters_of_the_body(name, blocks):
    model = build_model(name, (3, 32, 32), 10, seed=0)
    assert len(model.blocks) == blocks
    in_blocks = [id(p) for block in model.blocks for p in block.parameters()]
    assert in_blocks == [id(p) for p in model.body.parameters()]
