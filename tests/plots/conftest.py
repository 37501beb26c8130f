"""A few real runs, made once for all tests of this folder. Tests change copies of them."""

import numpy as np
import pytest
from support.in_process import run_server
from support.run_configs import small_run_config
from support.run_folders import copy_run, summarize

from fedbabu import client_work
from fedbabu.models import build_model
from fedbabu.reproduction.paper import find_cells
from fedbabu.runs.folder import RunFolder


@pytest.fixture(scope="session")
def make_run(tmp_path_factory):
    """A function that makes a small run with other run-config keys, "_" for "-"; all are in one results folder."""
    config = small_run_config(tmp_path_factory.mktemp("results")) | {"fraction-train": 0.25}

    def make(**keys) -> RunFolder:
        return run_server(config | {key.replace("_", "-"): value for key, value in keys.items()})[0]

    return make


@pytest.fixture(scope="session")
def federated(make_run) -> list[RunFolder]:
    """A run of FedAvg and one of FedBABU; the latter has the class accuracies of clients with few classes."""
    return [make_run(algorithm="fedavg"), make_run(algorithm="fedbabu", record="class-accuracy")]


@pytest.fixture(scope="session")
def fine_tuned_states() -> list[dict[str, np.ndarray]]:
    """The fine-tuned parameters of every client of the FedBABU run in `diagnosed`."""
    return []


@pytest.fixture(scope="session")
def diagnosed(make_run, fine_tuned_states) -> list[RunFolder]:
    """A run of FedAvg and one of FedBABU with all diagnostics, and with test images of all classes."""
    keys = {"record": "similarity class-accuracy features", "iid_test_set": True}
    fine_tune_client = client_work.fine_tune_client

    def fine_tune_and_remember(client, *arguments):
        result = fine_tune_client(client, *arguments)
        fine_tuned_states.append({name: each.double().numpy() for name, each in client.model.state_dict().items()})
        return result

    fedavg = make_run(algorithm="fedavg", **keys)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client_work, "fine_tune_client", fine_tune_and_remember)
        return [fedavg, make_run(algorithm="fedbabu", **keys)]


@pytest.fixture(scope="session")
def centralized_run(make_run) -> RunFolder:
    """A run of centralized training that trains everything."""
    return make_run(algorithm="fedavg", fraction_train=0.0, server_data_fraction=1.0, num_finetune_epochs=0)


@pytest.fixture(scope="session")
def centralized(centralized_run, tmp_path_factory) -> list[RunFolder]:
    """Runs of centralized training by the trained part: that of everything, also under two other names."""
    folder = tmp_path_factory.mktemp("centralized")
    return [copy_run(centralized_run, folder / part, server_part=part) for part in ("full", "body", "head")]


@pytest.fixture(scope="session")
def by_head_init(centralized_run, tmp_path_factory) -> list[RunFolder]:
    """The same by the head's initialization, with the initial network of each as its final model."""
    folder, runs = tmp_path_factory.mktemp("by-head-init"), []
    for name in ("he", "orthogonal", "similar"):
        runs.append(copy_run(centralized_run, folder / name, server_part="body", head_init=name))
        runs[-1].write_model(build_model("FourConvNet", (1, 16, 16), 10, 7, name).state_dict())
    return runs


@pytest.fixture(scope="session")
def as_in_the_paper(federated, tmp_path_factory) -> list[RunFolder]:
    """Copies of the two federated runs with a setting for which the paper has numbers."""
    setting = {
        "dataset": "cifar10", "num_clients": 100, "fraction_train": 0.1, "num_local_epochs": 4,
        "num_server_rounds": 80, "num_finetune_epochs": 5, "batch_size": 50,
    }  # fmt: skip
    folder, runs = tmp_path_factory.mktemp("as-in-the-paper"), []
    for run in federated:
        copied = copy_run(run, folder / run.path.name, {"name": "cifar10", "num-train-examples": 50_000}, **setting)
        found = find_cells(copied.config, copied.dataset)
        paper = {metric: {"mean": cell.mean, "std": cell.std, "table": cell.table} for metric, cell in found.items()}
        runs.append(summarize(copied, paper))
    return runs
