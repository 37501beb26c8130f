"""Where the time of a round goes, counted and timed within one process."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from torch.utils.flop_counter import FlopCounterMode

from fedbabu.config import RunConfig
from fedbabu.data import BatchTransform, client_examples, open_simulated_data
from fedbabu.federation.messages import TrainReply
from fedbabu.models import SplitNetwork, build_model
from fedbabu.training import local_sgd as training
from fedbabu.training.aggregation import weighted_sum

CPU = torch.device("cpu")


def seconds_of(function: Callable[[], object], repeats: int = 10) -> float:
    """The median of some calls."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - started)
    return median(seconds)


def matmul_rate(num_threads: int, size: int = 2048) -> float:
    """GFLOP/s of float32 matrix multiplication."""
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    a, b = torch.randn(size, size), torch.randn(size, size)
    seconds = seconds_of(lambda: torch.mm(a, b))
    torch.set_num_threads(before)
    return 2 * size**3 / seconds / 1e9


def mflop_per_image(config: RunConfig) -> float:
    """MFLOP that PyTorch counts in a training step of a default round, for each image."""
    dataset, _ = open_simulated_data(config)
    model, images = _model(config), torch.randn(config.batch_size, *dataset.image_shape)
    with FlopCounterMode(display=False) as counter:
        torch.autograd.grad(model(images).sum(), list(model.body.parameters()))
    return counter.get_total_flops() / len(images) / 1e6


def shares_of_training(config: RunConfig) -> dict[str, float]:
    """The fractions of a client's training that its data and the parts of its steps take, in this process alone."""
    dataset, partition = open_simulated_data(config)
    seconds: dict[str, float] = {}

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            result = function(*args, **kwargs)
            seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - started
            return result

        return call

    def train_client() -> None:
        examples = timed("data", client_examples)(
            dataset.images["train"], dataset.labels["train"], partition.rows["train"][0], CPU
        )
        epochs = training.train(
            model, received, examples, dataset.transform, config.row.trains, config,
            torch.Generator().manual_seed(0), epochs=config.num_local_epochs, learning_rate=config.learning_rate,
        )  # fmt: skip
        for _ in epochs:
            pass

    model, received = _model(config), _model(config)
    torch.set_num_threads(1)
    train_client()  # not counted: the first steps allocate memory
    seconds.clear()
    with ExitStack() as patches:
        for owner, function, name in (
            (BatchTransform, "augment", "data"),
            (SplitNetwork, "forward", "forward"),
            (torch.autograd, "grad", "backward"),
            (training, "_sgd_step", "step"),
        ):
            patches.enter_context(patch.object(owner, function, timed(name, getattr(owner, function))))
        draw_epoch = training._draw_epoch  # a generator, whose work is done as it is asked for
        draw_all = timed("data", lambda *arguments: list(draw_epoch(*arguments)))
        patches.enter_context(patch.object(training, "_draw_epoch", draw_all))
        timed("whole", train_client)()
    whole = seconds.pop("whole")
    return {name: value / whole for name, value in seconds.items()}


def aggregation_seconds(config: RunConfig, num_nodes: int) -> float:
    """The seconds in which nodes sum up their clients, at the same time, and the server reads and sums up the nodes."""
    shared = {name: value for name, value in _model(config).state_dict().items() if name.startswith("body.")}
    states = [(shared, 500)] * (config.clients_per_round // num_nodes)
    clients = list(range(len(states)))
    num_train = dict.fromkeys(clients, 500)

    def on_node() -> TrainReply:
        return TrainReply(clients, weighted_sum(states), 1, 500 * len(states), [0.0] * len(states))

    content = on_node().to_content()

    def on_server() -> None:
        replies = [TrainReply.from_content(content, clients, num_train, shared) for _ in range(num_nodes)]
        weighted_sum((reply.update, reply.weight) for reply in replies)

    return seconds_of(lambda: on_node().to_content()) + seconds_of(on_server)


def _model(config: RunConfig) -> SplitNetwork:
    dataset, _ = open_simulated_data(config)
    return build_model(config.model_name, dataset.image_shape, dataset.num_classes, seed=0)
