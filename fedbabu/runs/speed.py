"""How long a run will take on this machine, from how fast runs of the same network were, or from trying it."""

from collections.abc import Sequence
from functools import cache
from time import perf_counter

import torch

from fedbabu.algorithms import Part, Phase
from fedbabu.config import RunConfig, default_run_config
from fedbabu.data import BatchTransform, Examples
from fedbabu.data.known import KNOWN_DATASETS
from fedbabu.models import ImageShape, build_model
from fedbabu.runs.cost import Cost
from fedbabu.runs.folder import RunFolder
from fedbabu.training.local_sgd import DEVICE, train

START_SECONDS = 15  # of Flower and Ray, before a run's first round
TRIED_BATCHES = 2


def seconds_of(config: RunConfig, data: str, runs: Sequence[RunFolder], num_nodes: int) -> float | None:
    """An estimate of how long a run takes; None if it is not known how many images its dataset has.

    Args:
        config: the run's.
        data: the name of a known dataset, or what the run config says; then one of the runs must have it too.
        runs: finished ones, on this machine.
        num_nodes: that train at the same time.
    """
    same_data = [run for run in runs if data in (run.dataset["name"], run.config["dataset"])]
    known = KNOWN_DATASETS.get(data)
    if same_data:
        num_train, num_test = _num_examples(same_data[-1])
    elif known:
        num_train, num_test = known.num_examples
    else:
        return None
    same_model = [
        run
        for run in same_data
        if run.config["model-name"] == config.model_name and run.config.get("precision", "float32") == config.precision
    ]
    if same_model and (measured := _measured(same_model[-1])):
        speed = measured
    elif known:
        speed = num_nodes * images_per_second(config.model_name, known.image_shape, config.batch_size, config.precision)
    else:
        return None
    return START_SECONDS + Cost(config, num_train, num_test).whole / speed


@cache
def _num_examples(run: RunFolder) -> tuple[int, int]:
    """The training and the test images of a run."""
    return run.dataset["num-train-examples"], sum(client["num-test-examples"] for client in run.clients)


@cache
def _measured(run: RunFolder) -> float:
    """The images per second that a run trained; 0 if it does not tell."""
    cost = Cost(RunConfig.from_flower(run.complete_config), run.dataset["num-train-examples"], 0)
    rounds = run.rounds
    images = sum(cost.training(record["round"], record["num-examples"]) for record in rounds)
    seconds = sum(record["train-seconds"] for record in rounds)
    return images / seconds if seconds else 0.0


@cache
def images_per_second(model_name: str, image_shape: ImageShape, batch_size: int, precision: str) -> float:
    """How fast one node trains a network, tried on a few random batches with one CPU, or on the GPU."""
    keys = {"model-name": model_name, "batch-size": batch_size, "precision": precision}
    config = RunConfig.from_flower(default_run_config() | keys)
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        model = build_model(model_name, image_shape, 10, seed=0).to(DEVICE)
        generator = torch.Generator().manual_seed(0)
        shape = (TRIED_BATCHES * batch_size, *image_shape)
        images = torch.randint(256, shape, dtype=torch.uint8, generator=generator).to(DEVICE)
        examples = Examples(images, torch.zeros(len(images), dtype=torch.int64, device=DEVICE))
        transform = BatchTransform((0.5,) * image_shape[0], (0.5,) * image_shape[0])
        epochs = train(
            model, model, examples, transform, (Phase(Part.FULL),), config, generator, epochs=2, learning_rate=0.0
        )
        next(epochs)  # not counted: the first steps allocate memory
        started = perf_counter()
        next(epochs)
        return len(images) / (perf_counter() - started)
    finally:
        torch.set_num_threads(num_threads)
