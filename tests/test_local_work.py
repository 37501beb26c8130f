"""What a client computes: the SGD loop and the evaluation, each alone."""

import copy

import numpy as np
import pytest
import torch
from pictures import KNOWN, write_known

from fedbabu.algorithms import ALGORITHMS, Part, Phase
from fedbabu.config import RunConfig, default_run_config
from fedbabu.data import BatchTransform, DataSpec, Examples, client_examples, open_dataset
from fedbabu.models import MODELS, build_model
from fedbabu.training import local_sgd as local_training
from fedbabu.training.aggregation import weighted_sum
from fedbabu.training.cuda_graphs import GraphedStep
from fedbabu.training.evaluation import (
    class_templates,
    evaluate_initial,
    evaluate_personalized,
    features,
    nearest_template,
)
from fedbabu.training.local_sgd import train

TRANSFORM = BatchTransform((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), crop_padding=2)


def examples(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (n, 3, 16, 16), generator=generator, dtype=torch.uint8)
    return Examples(images, torch.randint(5, (n,), generator=generator))


@pytest.fixture
def model():
    return build_model("FourConvNet", (3, 16, 16), 5, seed=0)


def training(model, data, part=Part.FULL, transform=TRANSFORM, epochs=2, learning_rate=0.1, **keys):
    config = RunConfig.from_flower(default_run_config() | {"batch-size": 8} | keys)
    generator = torch.Generator().manual_seed(1)
    phases = (Phase(part),)
    return train(model, model, data, transform, phases, config, generator, epochs=epochs, learning_rate=learning_rate)


def run(model, part, data=None, **settings):
    return list(training(model, data or examples(20), part, **settings))


@pytest.mark.parametrize("part", [Part.BODY, Part.HEAD, Part.FULL])
def test_only_the_trained_part_moves(model, part):
    before = copy.deepcopy(model.state_dict())
    losses = run(model, part)
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == set(part.names(before))
    assert len(losses) == 2


def test_training_is_reproducible_and_learns(model):
    other = copy.deepcopy(model)
    losses = run(model, Part.FULL, epochs=15, learning_rate=0.02)
    assert losses == run(other, Part.FULL, epochs=15, learning_rate=0.02)
    assert losses[-1] < losses[0]
    assert torch.equal(model.head.weight, other.head.weight)


def test_the_step_is_torchs_sgd_bit_for_bit(model):
    """The same batches through torch.optim.SGD, its head's learning rate zero, give the same parameters."""
    other, data = copy.deepcopy(model), examples(20)
    run(model, Part.BODY, data)
    groups = [{"params": other.body.parameters()}, {"params": other.head.parameters(), "lr": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    generator = torch.Generator().manual_seed(1)
    for _ in range(2):
        for batch in torch.randperm(20, generator=generator).split(8):
            images = TRANSFORM.augment(data.images[batch], TRANSFORM.draw(len(batch), generator))
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(other(images), data.labels[batch]).backward()
            optimizer.step()
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)


class Recorder:
    """In the place of cuda_graphs.Cuda: nothing is done until it is replayed, on the tensors that were there.

    It calls the function again, so it does not see whether that depends on more than tensors, as a GPU would show.
    """

    def __init__(self):
        self.recordings = self.replays = 0

    def prepare(self, function):
        return function()

    def record(self, function):
        result = torch.full((), torch.nan)
        self.recordings += 1

        def replay():
            self.replays += 1
            result.copy_(function())

        return replay, result


@pytest.mark.parametrize("algorithm", ["fedbabu", "fedrep", "per-fedavg", "fedbsd", "ditto"])
def test_replayed_steps_train_bit_for_bit_like_others(model, monkeypatch, algorithm):
    """As far as that can be seen without a GPU: with a stand-in for the capture, and batches of two sizes."""
    row, recorder = ALGORITHMS[algorithm], Recorder()
    received, graphed = copy.deepcopy(model), copy.deepcopy(model)

    def train_all(model, **keys):
        config = RunConfig.from_flower(default_run_config() | {"batch-size": 8} | keys)
        generator = torch.Generator().manual_seed(1)
        phases = (*row.trains, *row.trains_kept)
        return list(train(
            model, received, examples(20), TRANSFORM, phases, config, generator, epochs=4, learning_rate=0.1
        ))  # fmt: skip

    losses = train_all(model)
    monkeypatch.setattr(local_training, "DEVICE", torch.device("cuda"))
    monkeypatch.setattr(local_training, "GraphedStep", lambda step: GraphedStep(step, recorder))
    assert train_all(graphed, **{"cuda-graph": True}) == losses
    for one, other in zip(model.parameters(), graphed.parameters(), strict=True):
        assert torch.equal(one, other)
    assert recorder.replays > recorder.recordings >= 2


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_no_value_is_read_within_an_epoch(model, algorithm):
    """It would make a program wait for a GPU; the mean loss of an epoch is read once."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Reads(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            self.count += function.overloadpacket in (torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero)
            return function(*args, **(kwargs or {}))

    row, received = ALGORITHMS[algorithm], copy.deepcopy(model)
    config, generator = RunConfig.from_flower(default_run_config() | {"batch-size": 8}), torch.Generator()
    epochs = train(model, received, examples(20), TRANSFORM, row.trains, config, generator, epochs=3, learning_rate=0.1)
    with Reads() as reads:
        num_epochs = len(list(epochs))
    assert reads.count == num_epochs >= 3


def test_training_in_bfloat16_keeps_float32_parameters_and_learns(model):
    exact = copy.deepcopy(model)
    losses = run(model, Part.FULL, epochs=15, learning_rate=0.02, precision="bf16")
    expected = run(exact, Part.FULL, epochs=15, learning_rate=0.02)
    assert losses[0] != expected[0]
    assert losses[0] == pytest.approx(expected[0], rel=0.02)
    assert losses[-1] < losses[0]
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_tf32_is_for_training_that_asks_for_it(model):
    """PyTorch's own default lets cuDNN's convolutions have it."""
    flags = []

    def watched(model, received, batch, config):
        flags.append((torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32))
        return model(batch[0]).sum()

    for precision in ("float32", "tf32"):
        config = RunConfig.from_flower(default_run_config() | {"precision": precision})
        phases, generator = (Phase(Part.FULL, loss=watched),), torch.Generator()
        for _ in train(model, model, examples(20), TRANSFORM, phases, config, generator, epochs=1, learning_rate=0.1):
            assert not torch.backends.cuda.matmul.allow_tf32
            assert not torch.backends.cudnn.allow_tf32  # an evaluation would be now
    assert flags == [(False, False), (True, True)]


def test_a_frozen_part_trains_again_in_the_next_phase(model):
    before = model.head.weight.clone()
    run(model, Part.BODY)
    run(model, Part.FULL)
    assert not torch.equal(model.head.weight, before)


def test_the_yielded_loss_is_the_mean_over_examples(model):
    """With learning rate near zero and one batch, it is the loss of the untouched model."""
    data = examples(20)
    plain = BatchTransform((0.5,) * 3, (0.5,) * 3, crop_padding=0, flip=False)
    (loss,) = training(model, data, transform=plain, epochs=1, learning_rate=1e-12, **{"batch-size": 20})
    with torch.no_grad():
        expected = torch.nn.functional.cross_entropy(model(plain.normalize(data.images)), data.labels)
    assert loss == pytest.approx(expected.item(), rel=1e-5)


def test_up_to_128_images_are_evaluated_in_one_batch(model):
    """BatchNorm ties a batch together, so the batches of an evaluation are part of its definition."""
    data = examples(128)
    with torch.no_grad():
        torch.testing.assert_close(features(model, data, TRANSFORM), model.features(TRANSFORM.normalize(data.images)))
    data = examples(129)
    with torch.no_grad():
        halves = [model.features(TRANSFORM.normalize(data.images[part])) for part in (slice(65), slice(65, None))]
    torch.testing.assert_close(features(model, data, TRANSFORM), torch.cat(halves))


def test_templates_are_class_means_and_cosine_picks_the_nearest():
    train_features = torch.tensor([[2.0, 0.0], [4.0, 0.0], [0.0, 1.0]])
    templates = class_templates(train_features, torch.tensor([0, 0, 2]), num_classes=3)
    torch.testing.assert_close(templates[[0, 2]], torch.tensor([[3.0, 0.0], [0.0, 1.0]]))
    # Far along the first axis, though nearer to the second template by distance; and never the absent class 1.
    test_features = torch.tensor([[0.4, 0.3], [0.1, 9.0], [-1.0, -1.1]])
    assert nearest_template(test_features, templates).tolist() == [0, 2, 0]


def test_personalized_evaluation_counts_epochs_and_starts_from_the_initial(model):
    own, test = examples(20), examples(30, seed=1)
    initial = evaluate_initial(model, test, TRANSFORM)
    tuning = training(model, own, epochs=3, learning_rate=0.05)
    result = evaluate_personalized(model, own, test, TRANSFORM, tuning)
    assert len(result.accuracy) == len(result.loss) == 4
    assert (result.accuracy[0], result.loss[0]) == (initial.accuracy[0], pytest.approx(initial.loss[0]))
    assert 0 <= result.without_head_accuracy <= 100
    final = evaluate_initial(model, test, TRANSFORM)
    assert result.accuracy[-1] == final.accuracy[0]


@pytest.mark.parametrize("counts", [[500] * 10, [180] * 9, [500, 137, 500, 20, 3, 77, 450, 451, 452, 1]])
def test_weighted_sum_does_not_depend_on_the_grouping(counts):
    """Bit for bit, once divided: what a run on another number of nodes rests on."""
    generator = torch.Generator().manual_seed(0)
    states = [({"w": 0.1 * torch.randn(400_000, generator=generator)}, n) for n in counts]
    whole = weighted_sum(states)["w"]
    assert whole.dtype == torch.float64
    assert torch.equal(whole, sum(state["w"].double() * n for state, n in states))
    for groups in (2, 3, 5):
        parts = [weighted_sum(states[group::groups]) for group in range(groups)]
        grouped = weighted_sum((part, 1) for part in parts)["w"]
        assert torch.equal((grouped / sum(counts)).float(), (whole / sum(counts)).float())


@pytest.mark.parametrize("name", ["digits", *KNOWN])
@pytest.mark.parametrize("network", MODELS)
def test_every_model_trains_a_step_on_every_dataset(tmp_path_factory, network, name):
    folder = tmp_path_factory.getbasetemp() / f"copy-of-{name}"
    spec = DataSpec(name if name == "digits" else str(folder if folder.exists() else write_known(folder, name)))
    dataset = open_dataset(spec)
    own = client_examples(dataset.images["train"], dataset.labels["train"], np.arange(8), torch.device("cpu"))
    model = build_model(network, dataset.image_shape, dataset.num_classes, seed=0)
    before = copy.deepcopy(model.state_dict())
    (loss,) = training(model, own, Part.BODY, dataset.transform, epochs=1)
    assert np.isfinite(loss)
    for key, value in model.state_dict().items():
        # A bias before BatchNorm has no gradient but rounding errors.
        assert torch.equal(value, before[key]) == key.startswith("head.") or key.endswith("0.bias")
    assert evaluate_initial(model, own, dataset.transform).accuracy[0] >= 0
