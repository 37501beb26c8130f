"""What the time of a round is spent on, counted and timed within one process."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from flwr.app import RecordDict
from torch.utils.flop_counter import FlopCounterMode

from fedbabu.algorithms import Step
from fedbabu.config import RunConfig
from fedbabu.data.partitions.partition import open_simulated_data
from fedbabu.data.transforms import BatchTransform
from fedbabu.federation.messages import TrainReply
from fedbabu.models import SplitNetwork, build_model
from fedbabu.runs.time_estimates import images_per_second
from fedbabu.training import local_sgd
from fedbabu.training.aggregation import weighted_sum
from fedbabu.training.client import Client, TrainedClient, train_client

EXAMPLES_PER_CLIENT = 500


def seconds_of(function: Callable[[], object], repeats: int = 10) -> float:
    """The median time of some calls of a function."""
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
    """MFLOP of a training step of the body for each image, as PyTorch counts them."""
    dataset, _ = open_simulated_data(config.data_spec, config.partition_spec)
    model, images = _model(config), torch.randn(config.batch_size, *dataset.image_shape)
    with FlopCounterMode(display=False) as counter:
        torch.autograd.grad(model(images).sum(), list(model.body.parameters()))
    return counter.get_total_flops() / len(images) / 1e6


def shares_of_training(config: RunConfig) -> dict[str, float]:
    """Fractions of the time of one client's training that its data and the parts of its steps take."""
    dataset, partition = open_simulated_data(config.data_spec, config.partition_spec)
    client = Client(0, config, dataset, partition, _model(config), _model(config))
    seconds: dict[str, float] = {}

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            result = function(*args, **kwargs)
            seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - started
            return result

        return call

    def train() -> TrainedClient:
        return train_client(client, {}, [1])

    torch.set_num_threads(1)
    train()  # not counted, because the first steps allocate memory
    sgd = local_sgd._LocalSGD
    draw_epoch = sgd._draw_epoch  # a generator: its work is done when the batches are taken from it
    with ExitStack() as patches:
        for owner, name, part, function in (
            (Client, "examples", "data", Client.examples),
            (BatchTransform, "augment", "data", BatchTransform.augment),
            (sgd, "_draw_epoch", "data", lambda *arguments: list(draw_epoch(*arguments))),
            (SplitNetwork, "forward", "forward", SplitNetwork.forward),
            (torch.autograd, "grad", "backward", torch.autograd.grad),
            (Step, "move", "step", Step.move),
        ):
            patches.enter_context(patch.object(owner, name, timed(part, function)))
        timed("whole", train)()
    whole = seconds.pop("whole")
    return {name: value / whole for name, value in seconds.items()}


def aggregation_seconds(config: RunConfig, num_nodes: int) -> float:
    """Seconds in which all nodes sum over their clients at the same time, and the server then sums over the nodes."""
    shared = {name: value for name, value in _model(config).state_dict().items() if name.startswith("body.")}
    clients = range(config.clients_per_round // num_nodes)
    num_train = dict.fromkeys(clients, EXAMPLES_PER_CLIENT)
    trained = TrainedClient(shared, {}, EXAMPLES_PER_CLIENT, weight=EXAMPLES_PER_CLIENT, loss=0.0)

    def on_node() -> RecordDict:
        reply = TrainReply()
        for client in clients:
            reply.add(client, trained, only_client=len(clients) == 1)
        return reply.to_content()

    content = on_node()

    def on_server() -> None:
        replies = [TrainReply.parse(content, clients, num_train, num_train, shared) for _ in range(num_nodes)]
        weighted_sum((reply.update, reply.weight) for reply in replies)

    return seconds_of(on_node) + seconds_of(on_server)


def seconds_of_step(config: RunConfig, precision: str) -> float:
    """Seconds of one training step on one batch, with one thread, at a precision: a key of the run config."""
    image_shape = open_simulated_data(config.data_spec, config.partition_spec)[0].image_shape
    return config.batch_size / images_per_second(config.model_name, image_shape, config.batch_size, precision)


def _model(config: RunConfig) -> SplitNetwork:
    dataset, _ = open_simulated_data(config.data_spec, config.partition_spec)
    return build_model(config.model_name, dataset.image_shape, dataset.num_classes, seed=0)
