"""How long a run takes: its cost, the speed of this machine, and the time left of a run or of several runs.

Cost is counted in images: the work of one training step on one image. A forward pass costs less.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from time import perf_counter

import numpy as np
import torch

from fedbabu.algorithms import EvaluationRule, Part, Phase
from fedbabu.config import RunConfig
from fedbabu.config.protocols import BATCHES, IMAGES
from fedbabu.data.known import KNOWN_DATASETS
from fedbabu.data.transforms import BatchTransform, Examples
from fedbabu.formatting import format_duration
from fedbabu.models import ImageShape, build_model
from fedbabu.runs.folder import RunFolder
from fedbabu.runs.records import RoundRecord
from fedbabu.training.device import training_device
from fedbabu.training.local_sgd import LocalTrainingSettings, train

FORWARD_COST = 1 / 3  # about; only estimates of time depend on it
NUM_TEMPLATE_SETS = len(IMAGES) * len(BATCHES)  # computed of all training images in the final evaluation
TRUSTED_SECONDS = 60  # of a sweep in which its estimate counts for as much as how long it took so far
START_SECONDS = 15  # that Flower and Ray need before the first round of a run


@dataclass(frozen=True)
class Cost:
    """The cost of a run and of its parts, given the numbers of training and of test images of all clients."""

    config: RunConfig
    num_train: int
    num_test: int

    def training(self, server_round: int, num_examples: float) -> float:
        """Cost of training in one round, of clients that have this number of examples together and of the server."""
        algorithm = self.config.algorithm_spec
        phases = algorithm.trains + algorithm.trains_personal
        epochs = sum(phase.num_epochs(self.config.num_local_epochs) for phase in phases)
        rounds = len(self.config.training_rounds(server_round))
        return epochs * rounds * num_examples + self.config.server_data_fraction * self.num_train

    def left(self, finished_rounds: int) -> float:
        """Cost of what is left of the run after this number of rounds: further rounds and the final evaluation."""
        config, rounds = self.config, range(finished_rounds + 1, self.config.num_rounds + 1)
        communicates = config.algorithm_spec.communicates
        share = config.clients_per_round / config.num_clients if communicates else 1 / config.num_rounds
        training = len(rounds) * self.training(1, share * self.num_train)
        evaluated = [each for each in rounds[:-1] if config.evaluate_every and each % config.evaluate_every == 0]
        epochs = config.total_finetune_epochs
        templates = NUM_TEMPLATE_SETS * FORWARD_COST * self.num_train
        fine_tuning = epochs * self.num_train + templates + (epochs + 1) * FORWARD_COST * self.num_test
        # The last round's model, and that of the best round, if it is another one.
        num_models = 2 if communicates and config.evaluate_every and config.num_rounds > config.evaluate_every else 1
        every_round = config.algorithm_spec.evaluation is EvaluationRule.PERSONALIZED_EVERY_ROUND
        evaluation = fine_tuning if every_round else FORWARD_COST * self.num_test
        return training + len(evaluated) * evaluation + num_models * fine_tuning

    def speed(self, rounds: Sequence[RoundRecord]) -> float:
        """How many images per second were trained in these rounds; 0 if none were."""
        seconds = sum(record.train_seconds for record in rounds)
        return sum(self.training(record.round, record.num_examples) for record in rounds) / seconds if seconds else 0.0


def estimated_seconds(
    config: RunConfig, data_name: str, runs: Sequence[RunFolder], clients_at_a_time: int
) -> float | None:
    """How many seconds a run will take on this machine; None if its data are not known.

    Of the given finished runs, which should be of this machine, the newest with the same data and network tells the
    speed; without one, the speed is measured now. Data are known by the name of a known dataset, or from a finished run
    with the same data.
    """
    known = KNOWN_DATASETS.get(data_name)
    same_data = [run for run in runs if data_name in (run.dataset["name"], run.config["dataset"])]
    network = (config.model_name, config.precision)
    same_network = [run for run in same_data if (run.config["model-name"], run.config["precision"]) == network]
    speed = _size_and_speed(same_network[-1])[1] if same_network else 0.0
    if not speed and known:
        of_one = images_per_second(config.model_name, known.image_shape, config.batch_size, config.precision)
        speed = clients_at_a_time * of_one
    if not speed:
        return None
    size = known.num_examples if known and not same_data else _size_and_speed(same_data[-1])[0]
    return START_SECONDS + Cost(config, *size).left(0) / speed


@cache
def _size_and_speed(run: RunFolder) -> tuple[tuple[int, int], float]:
    """Numbers of training and of test images of a finished run, and how many images per second it trained."""
    size = run.dataset["num-train-examples"], sum(client["num-test-examples"] for client in run.clients)
    return size, Cost(run.run_config, *size).speed(run.rounds)


@cache
def images_per_second(model_name: str, image_shape: ImageShape, batch_size: int, precision: str) -> float:
    """How fast one client trains a network, measured on two random batches with one CPU, or on the GPU."""
    settings, device = LocalTrainingSettings(batch_size, momentum=0.9, precision=precision), training_device("auto")
    model = build_model(model_name, image_shape, 10, seed=0).to(device)
    generator, phases = torch.Generator().manual_seed(0), (Phase(Part.FULL),)
    images = torch.randint(256, (2 * batch_size, *image_shape), dtype=torch.uint8, generator=generator).to(device)
    examples = Examples(images, torch.zeros(len(images), dtype=torch.int64, device=device))
    transform = BatchTransform((0.5,) * image_shape[0], (0.5,) * image_shape[0])
    num_threads, seconds = torch.get_num_threads(), 0.0
    torch.set_num_threads(1)
    for _ in range(2):  # the first epoch does not count, because its first steps allocate memory
        started = perf_counter()
        train(model, model, examples, transform, phases, settings, generator, epochs=1, learning_rate=0.0)
        seconds = perf_counter() - started
    torch.set_num_threads(num_threads)
    return len(images) / seconds


def time_left(estimates: Sequence[float | None], finished_runs: float, elapsed_seconds: float) -> str:
    """The time left of several runs, in words: as estimated, and more and more corrected by how long it took so far.

    The number of runs counts the finished part of the current one. Without any estimate in seconds, the text is empty.
    """
    seconds = np.array(estimates, dtype=float)  # None becomes NaN
    if np.isnan(seconds).all():
        return ""
    seconds[np.isnan(seconds)] = np.nanmean(seconds)
    done = np.interp(finished_runs, range(len(seconds) + 1), [0, *np.cumsum(seconds)])
    slowness = (elapsed_seconds + TRUSTED_SECONDS) / (done + TRUSTED_SECONDS)
    return f"{format_duration((seconds.sum() - done) * slowness)} left"
