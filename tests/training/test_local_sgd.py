"""Local SGD: which parameters it moves, by which steps, with which loss and arithmetic."""

import copy

import pytest
import torch
from support.local_training import TRANSFORM, random_examples, small_model, train_model
from torch.utils._python_dispatch import TorchDispatchMode

from fedbabu.algorithms import ALGORITHMS, Part, Phase, Step
from fedbabu.algorithms.base import gradient_step
from fedbabu.config import RunConfig, default_run_config
from fedbabu.data.transforms import BatchTransform
from fedbabu.training.local_sgd import Deadline, check_finite


@pytest.fixture
def model():
    return small_model()


@pytest.mark.parametrize("part", [Part.BODY, Part.HEAD, Part.FULL])
def test_only_the_trained_part_moves(model, part):
    before = copy.deepcopy(model.state_dict())
    losses = train_model(model, part)
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == set(part.names(before))
    assert len(losses) == 2


def test_training_is_reproducible_and_learns(model):
    other = copy.deepcopy(model)
    losses = train_model(model, epochs=15, learning_rate=0.02)
    assert losses == train_model(other, epochs=15, learning_rate=0.02)
    assert losses[-1] < losses[0]
    assert torch.equal(model.head.weight, other.head.weight)


def test_a_step_is_that_of_torch_optim_bit_for_bit(model):
    """The same batches through torch.optim.SGD, with learning rate zero for the head, give the same parameters."""
    other, data = copy.deepcopy(model), random_examples(20)
    train_model(model, Part.BODY, data)
    groups = [{"params": other.body.parameters()}, {"params": other.head.parameters(), "lr": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    generator = torch.Generator().manual_seed(1)
    for _ in range(2):
        for batch in torch.randperm(20, generator=generator).split(8):
            images = TRANSFORM.augment(data.images[batch], TRANSFORM.draw(len(batch), generator))
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(other(images), data.labels[batch]).backward()
            optimizer.step()
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)


def test_a_part_that_one_phase_leaves_out_is_trained_by_the_next(model):
    before = model.head.weight.clone()
    train_model(model, phases=(Phase(Part.BODY), Phase(Part.FULL, epochs=1)))
    assert not torch.equal(model.head.weight, before)


def test_the_loss_of_an_epoch_is_the_mean_over_its_examples(model):
    """With a learning rate near zero and one batch, it is the loss of the initial model."""
    data = random_examples(20)
    plain = BatchTransform((0.5,) * 3, (0.5,) * 3, crop_padding=0, flip=False)
    (loss,) = train_model(model, examples=data, transform=plain, epochs=1, learning_rate=1e-12, batch_size=20)
    with torch.no_grad():
        expected = torch.nn.functional.cross_entropy(model(plain.normalize(data.images)), data.labels)
    assert loss == pytest.approx(expected.item(), rel=1e-5)


def test_functions_are_called_in_order_after_every_epoch(model):
    calls = []
    train_model(
        model,
        phases=(Phase(Part.HEAD), Phase(Part.BODY, epochs=1)),
        after_epoch=(lambda: calls.append("first"), lambda: calls.append("second")),
    )
    assert calls == ["first", "second"] * 3


class CountReads(TorchDispatchMode):
    """Counts the values that a program reads out of tensors, for each of which it would wait for a GPU."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function.overloadpacket in (torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("algorithm", ["fedrep", "per-fedavg", "ditto", "fedprox", "fedbsd"])
def test_no_value_is_read_within_an_epoch(model, algorithm):
    spec = ALGORITHMS[algorithm]
    coefficients = RunConfig.from_flower(default_run_config() | {"algorithm": algorithm}).coefficients
    phases, global_model = (*spec.trains, *spec.trains_personal), copy.deepcopy(model)
    with CountReads() as reads:
        losses = train_model(model, phases=phases, global_model=global_model, coefficients=coefficients)
    assert reads.count == len(losses) >= 2  # the mean loss of each epoch


def test_training_in_bfloat16_keeps_float32_parameters_and_learns(model):
    exact = copy.deepcopy(model)
    losses = train_model(model, epochs=15, learning_rate=0.02, precision="bf16")
    expected = train_model(exact, epochs=15, learning_rate=0.02)
    assert losses[0] != expected[0]
    assert losses[0] == pytest.approx(expected[0], rel=0.02)
    assert losses[-1] < losses[0]
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@pytest.mark.parametrize(("precision", "allowed"), [("float32", False), ("tf32", True)])
def test_tf32_is_used_in_training_with_that_precision_and_nowhere_else(model, precision, allowed):
    """PyTorch by itself allows it in convolutions."""
    in_training, after_epoch = [], []

    def flags():
        return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32

    def loss(model, global_model, batch, coefficients):
        in_training.append(flags())
        return model(batch[0]).sum()

    phases = (Phase(Part.FULL, loss=loss),)
    train_model(model, phases=phases, precision=precision, after_epoch=(lambda: after_epoch.append(flags()),))
    assert set(in_training) == {(allowed, allowed)}
    assert set(after_epoch) == {(False, False)}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), torch.tensor([1.0, float("-inf")])])
def test_a_value_that_is_not_finite_is_an_error(value):
    check_finite(1.0, torch.ones(3))
    with pytest.raises(FloatingPointError):
        check_finite(1.0, value)


def test_a_deadline_names_the_key_that_sets_it(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("fedbabu.training.local_sgd.monotonic", lambda: now[0])
    deadline, never = Deadline(5.0), Deadline(0.0)
    now[0] += 4.9
    deadline.check()
    now[0] += 0.2
    never.check()
    with pytest.raises(TimeoutError, match=r"client-timeout = 5\.0"):
        deadline.check()


def test_weight_decay_is_that_of_torch_optim():
    model, other = small_model(), small_model()
    step = Step(
        lambda batch: model(batch[0]).square().mean(),
        list(model.parameters()),
        list(model.parameters()),
        [torch.zeros_like(parameter) for parameter in model.parameters()],
        [0.1] * len(list(model.parameters())),
        0.9,
        0.0005,
        [(torch.randn(4, 3, 16, 16), torch.zeros(4, dtype=torch.int64))],
        {},
    )
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1, momentum=0.9, weight_decay=0.0005)
    for _ in range(3):
        gradient_step(step)
        optimizer.zero_grad()
        other(step.batches[0][0]).square().mean().backward()
        optimizer.step()
    for one, same in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, same)
