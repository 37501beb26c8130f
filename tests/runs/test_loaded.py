"""A run as Python objects: its tables, and its network, which predicts as the run measured."""

import re

import numpy as np
import pytest
import torch
from support.pages import snippets

import fedbabu
from fedbabu import load_run
from fedbabu.data.dataset import open_dataset
from fedbabu.data.source import DataSpec
from fedbabu.errors import RunError


def test_a_run_is_tables_of_rounds_and_clients(finished):
    run = load_run(finished.run.path)
    assert run.config == finished.run.config
    assert run.rounds.index.tolist() == [1, 2, 3, 4]
    assert run.rounds["train-loss"].notna().all()
    assert len(run.clients) == len(finished.run.clients)
    accuracy = finished.run.summary["accuracy"]
    for metric in ("initial", "without-head", "personalized"):
        assert run.clients[metric].mean() == pytest.approx(accuracy[metric]["mean"])
    assert run.class_names == [str(digit) for digit in range(10)]


def test_the_network_predicts_as_the_run_measured(finished):
    """The images of one client, in the order in which it evaluates them, so that BatchNorm sees the same batch."""
    from fedbabu.data.partitions.partition import open_simulated_data

    run, config = load_run(finished.run.path), finished.run.run_config
    dataset, partition = open_simulated_data(config.data_spec, config.partition_spec)
    rows = partition.rows["test"][3]
    predicted = run.predict(np.asarray(dataset.images["test"][rows]))
    correct = np.array(predicted) == np.array([str(label) for label in dataset.labels["test"][rows]])
    assert 100 * correct.mean() == pytest.approx(run.clients.loc[3, "initial"])


def test_the_network_has_the_weights_of_the_last_or_the_best_round(finished):
    run = load_run(finished.run.path)
    for best, state in ((False, finished.run.model()), (True, finished.run.best_model())):
        assert all(torch.equal(value, state[name]) for name, value in run.network(best).state_dict().items())


def test_images_of_another_shape_are_refused(finished):
    images = open_dataset(DataSpec("digits")).images["test"]
    with pytest.raises(ValueError, match=r"uint8 \[n, 16, 16, 1\]"):
        load_run(finished.run.path).predict(np.asarray(images[:, :8]))


def test_what_is_no_run_is_a_sentence(tmp_path):
    with pytest.raises(RunError, match=f"{tmp_path} is not the folder of a run"):
        load_run(tmp_path)
    with pytest.raises(AttributeError, match="no attribute 'loadrun'"):
        _ = fedbabu.loadrun


def test_the_snippet_of_the_page_works_on_a_run(finished):
    code, num_runs = re.subn(r'load_run\(".*"\)', f"load_run({str(finished.run.path)!r})", snippets("experiments.md"))
    assert num_runs == 1
    defined = {"images": np.random.default_rng(0).integers(0, 256, (20, 16, 16, 1), dtype=np.uint8)}
    exec(code, defined)
    assert set(defined["classes"]) <= set(defined["run"].class_names)
    assert len(defined["classes"]) == 20
