"""Differential privacy of clients: clipping, noise and ε, compared with Flower's own."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.supercore.differential_privacy import compute_clip_model_update, compute_stdv
from support.errors import config_error
from support.faults import fail_clients, stopped_after_round
from support.in_process import essence, run_server, tasks
from support.local_data import LOCAL_DATA, nodes_with_local_data

from fedbabu.config import RunConfig, default_run_config
from fedbabu.runs import privacy as privacy_of_runs
from fedbabu.runs.privacy import RELEASES
from fedbabu.training.privacy import clipped, epsilon, noise_generator, with_noise

NORM = 0.05
PRIVATE = {"dp-clipping-norm": NORM, "aggregation-weights": "clients"}


def random_states(seed: int) -> tuple[dict, dict]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"a": (3, 4), "b": (5,)}
    return tuple({name: torch.randn(shape, generator=generator) for name, shape in shapes.items()} for _ in range(2))


@pytest.mark.parametrize("norm", [0.5, 100.0])
def test_clipping_is_that_of_flower(norm):
    shared, start = random_states(0)
    theirs = [value.numpy().copy() for value in shared.values()]
    compute_clip_model_update(theirs, [start[name].numpy() for name in shared], norm)
    for ours, expected in zip(clipped(shared, start, norm).values(), theirs, strict=True):
        np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-5, atol=1e-6)


def test_an_update_of_zero_stays_zero():
    _, start = random_states(0)
    assert all(torch.equal(value, start[name]) for name, value in clipped(start, start, 1.0).items())


def test_noise_has_its_standard_deviation_and_none_is_none():
    state = {"w": torch.zeros(100_000)}
    noisy = with_noise(state, 0.3, noise_generator(1, 2, secret=False))["w"]
    assert noisy.std().item() == pytest.approx(0.3, rel=0.02)
    assert noisy.mean().item() == pytest.approx(0.0, abs=0.005)
    assert torch.equal(with_noise(state, 0.0, noise_generator(1, 2, secret=False))["w"], state["w"])


def test_noise_of_a_simulation_is_reproducible_and_that_of_a_real_federation_secret():
    def draw(*indices, secret):
        return noise_generator(*indices, secret=secret).standard_normal(4).tolist()

    assert draw(1, 2, secret=False) == draw(1, 2, secret=False)
    assert draw(1, 2, secret=False) != draw(1, 3, secret=False)
    assert draw(1, 2, secret=True) != draw(1, 2, secret=True)


def test_noise_does_not_depend_on_the_order_of_the_tensors():
    """A checkpoint has another order than a new model."""
    state, _ = random_states(0)
    turned = dict(reversed(state.items()))
    noised, turned = (with_noise(each, 1.0, noise_generator(1, 2, secret=False)) for each in (state, turned))
    assert all(torch.equal(noised[name], turned[name]) for name in state)


def shared_updates(grid, server_round: int) -> tuple[dict, list[dict]]:
    """The global model that a round starts from, and what each client shared, of a run with a node for each client."""
    messages = [
        (m, r) for m, r in grid.of_type("train") if f'"server_round":{server_round},' in m.content["content"]["json"]
    ]
    start = messages[0][0].content["arrays"].to_torch_state_dict()
    return start, [reply.content["arrays"].to_torch_state_dict() for _, reply in messages]


def test_every_client_is_clipped_before_anything_is_summed(tiny_config):
    """The models are those of a run on two nodes, which sum over several clients each."""
    config = tiny_config | PRIVATE
    run, grid = run_server(config, num_nodes=8)
    start, updates = shared_updates(grid, 1)
    for update in updates:
        length = sum(float((value - start[name]).square().sum()) for name, value in update.items()) ** 0.5
        assert length == pytest.approx(NORM, rel=1e-4)  # training moves further
    two, _ = run_server(config | {"results-dir": config["results-dir"] + "-two"}, num_nodes=2)
    assert essence(two) == essence(run)


def test_the_mean_without_noise_is_flowers_with_its_clipping(tiny_config):
    """One round of FedAvg: our clipped run against an unclipped one whose updates Flower's function clips."""
    config = tiny_config | {"algorithm": "fedavg", "num-server-rounds": 1, "aggregation-weights": "clients"}
    clipped_run, _ = run_server(config | PRIVATE, num_nodes=8)
    _, grid = run_server(config | {"results-dir": config["results-dir"] + "-free"}, num_nodes=8)
    start, updates = shared_updates(grid, 1)
    flowers = []
    for update in updates:
        arrays = [value.numpy().copy() for value in update.values()]
        compute_clip_model_update(arrays, [start[name].numpy() for name in update], NORM)
        flowers.append(arrays)
    model = clipped_run.model()
    for name, arrays in zip(updates[0], zip(*flowers, strict=True), strict=True):
        np.testing.assert_allclose(model[name].numpy(), np.mean(arrays, axis=0), rtol=1e-5, atol=1e-6, err_msg=name)


def test_the_server_adds_noise_of_flowers_standard_deviation_once_and_saves_the_noised_model(tiny_config):
    config = tiny_config | PRIVATE | {"num-server-rounds": 1}
    silent, _ = run_server(config)
    noised, _ = run_server(config | {"dp-noise-multiplier": 2.0, "results-dir": config["results-dir"] + "-noised"})
    before, after = silent.model(), noised.model()
    noise = torch.cat([(after[name] - before[name]).flatten() for name in after if name.startswith("body.")])
    assert noise.std().item() == pytest.approx(compute_stdv(2.0, NORM, 4), rel=0.02)
    assert torch.equal(after["head.weight"], before["head.weight"])  # FedBABU's head is not shared


def test_clients_add_their_own_noise(tiny_config):
    config = tiny_config | PRIVATE | {"num-server-rounds": 1, "dp-noise-by": "clients"}
    silent, _ = run_server(config)
    noised, _ = run_server(config | {"dp-noise-multiplier": 2.0, "results-dir": config["results-dir"] + "-noised"})
    before, after = silent.model(), noised.model()
    noise = torch.cat([(after[name] - before[name]).flatten() for name in after if name.startswith("body.")])
    assert noise.std().item() == pytest.approx(2.0 * NORM / 4**0.5, rel=0.02)  # the mean of four


def test_a_real_federation_draws_noise_that_the_seed_does_not_tell(tiny_config, tmp_path):
    config = tiny_config | LOCAL_DATA | PRIVATE | {"dp-noise-multiplier": 1.0, "num-server-rounds": 1}
    nodes = nodes_with_local_data(tmp_path)
    models = []
    for name in ("-a", "-b"):
        models.append(run_server(config | {"results-dir": config["results-dir"] + name}, node_configs=nodes)[0].model())
    assert not torch.equal(models[0]["body.0.0.weight"], models[1]["body.0.0.weight"])


def test_epsilon_of_the_gaussian_mechanism():
    """One release, z = 2: the classical mechanism with a multiplier of one, for which 4.38 is the least."""
    assert 4.38 < epsilon(2.0, 1e-5, 1) < 5.5  # Balle and Wang (2018)
    assert epsilon(2.0, 1e-5, 1) < epsilon(2.0, 1e-5, 4) < epsilon(1.0, 1e-5, 4)


def test_a_run_reports_the_epsilon_of_the_client_that_trained_most_often(tiny_config, capsys):
    run, _ = run_server(tiny_config | PRIVATE | {"dp-noise-multiplier": 2.0})
    most = max(Counter(client for record in run.rounds for client in record.clients).values())
    spent = run.summary["privacy"]
    assert spent["releases"] == most > 1
    assert spent["epsilon"] == pytest.approx(epsilon(2.0, 1e-5, most))
    assert f"ε = {spent['epsilon']:.2f} at δ = 1e-05 for what clients share" in capsys.readouterr().out


def test_repeated_attempts_count_too(tiny_config, monkeypatch):
    fail_clients(monkeypatch, {0, 1}, RuntimeError("broken"), ["train_client"])
    config = tiny_config | PRIVATE | {"dp-noise-multiplier": 2.0, "min-fit-clients": 4, "num-server-rounds": 2}
    run, grid = run_server(config)
    asked = Counter(client for task in tasks(grid, "train") for client in task.clients)
    assert any(record.attempts > 1 for record in run.rounds)
    assert run.summary["privacy"]["releases"] == max(asked.values())


@pytest.mark.parametrize("noise_by", ["server", "clients"])
def test_a_resumed_simulation_has_the_same_noise_and_counts_what_was_released_twice(tiny_config, noise_by):
    config = tiny_config | PRIVATE | {"dp-noise-multiplier": 0.5, "dp-noise-by": noise_by, "checkpoint-every": 2}
    with stopped_after_round(3):
        run_server(config | {"num-server-rounds": 4, "results-dir": config["results-dir"] + "-stopped"})
    (folder,) = Path(config["results-dir"] + "-stopped").iterdir()
    resumed, _ = run_server(default_run_config() | {"resume": str(folder), "results-dir": str(folder.parent)})
    longer, _ = run_server(config | {"num-server-rounds": 4})
    assert essence(resumed) == essence(longer)
    num_lines = [len((run.path / RELEASES).read_text().splitlines()) for run in (longer, resumed)]
    assert num_lines == [4, 5]  # round 3 was trained again


def test_without_its_accountant_noise_is_refused(tiny_config, monkeypatch):
    monkeypatch.setattr(privacy_of_runs, "find_spec", lambda name: None)
    with config_error("dp-noise-multiplier = 2.0", "dp-accounting"):
        run_server(tiny_config | PRIVATE | {"dp-noise-multiplier": 2.0})


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"dp-noise-multiplier": 1.0}, ["dp-noise-multiplier = 1.0", "dp-clipping-norm"]),
        ({"dp-clipping-norm": 1.0}, ["aggregation-weights = 'examples'", "must be 'clients'"]),
        (PRIVATE | {"algorithm": "local-only"}, ["dp-clipping-norm", "share nothing"]),
        (PRIVATE | {"server-data-fraction": 0.1}, ["dp-clipping-norm", "server-data-fraction must be 0.0"]),
        (PRIVATE | {"protocol": "code"}, ["dp-clipping-norm", "protocol must be 'text'"]),
    ],
)
def test_keys_that_do_not_fit_are_refused(run_config, keys, named):
    with config_error(*named):
        RunConfig.from_flower(run_config | keys)


def test_private_training_on_digits_learns_and_noise_costs_accuracy(run_config, capsys):
    """A whole run with its report, without noise and with much of it."""
    config = run_config | {"dp-clipping-norm": 0.5, "aggregation-weights": "clients", "num-server-rounds": 6}
    accuracy = {}
    for noise in (0.0, 4.0):
        keys = {"dp-noise-multiplier": noise, "results-dir": f"{config['results-dir']}-{noise}"}
        run, _ = run_server(config | keys)
        accuracy[noise] = {metric: values.mean() for metric, values in run.accuracies().items()}
        assert ("ε = " in capsys.readouterr().out) == bool(noise)
    assert accuracy[0.0]["personalized"] > 90
    for metric in ("initial", "without-head", "personalized"):
        assert accuracy[4.0][metric] < accuracy[0.0][metric] - 10
