"""The strategy: which clients a round samples, rounds that are repeated, and runs that stop."""

from pathlib import Path

import pytest
import torch
from flwr.app import ArrayRecord
from flwr.serverapp.strategy import (
    DifferentialPrivacyClientSideFixedClipping,
    DifferentialPrivacyServerSideFixedClipping,
)
from support.faults import fail_clients, make_clients_diverge, num_train_examples
from support.in_process import InProcessGrid, essence, run_server

from fedbabu.config import RunConfig
from fedbabu.errors import DivergedError, NotResumableError, RunError
from fedbabu.federation.clients import ClientInfo, Federation
from fedbabu.models import build_model
from fedbabu.runs.checkpoints import Checkpoint
from fedbabu.runs.folder import RunFolder
from fedbabu.strategy import SharedPartFedAvg

ALL_CLIENTS = range(8)


@pytest.fixture
def config(tiny_config) -> dict:
    """Three rounds of four of eight clients, with little training."""
    return tiny_config | {"num-local-epochs": 1, "num-finetune-epochs": 1}


@pytest.fixture
def new_strategy(config):
    """A function that makes the strategy of a run that is never started."""

    def make(**keys):
        checked = RunConfig.from_flower(config | {key.replace("_", "-"): value for key, value in keys.items()})
        clients = {client: ClientInfo(10, 10, (0,)) for client in range(checked.num_clients)}
        federation = Federation(clients, {}, False, "made", (1, 16, 16), tuple(range(10)), ("cpu",))
        start = Checkpoint.start(build_model("FourConvNet", (1, 16, 16), 10, 0))
        return SharedPartFedAvg(checked, federation, None, [start], None, None)

    return make


@pytest.fixture
def sample(new_strategy):
    """A function that samples the clients of a round, without a run."""

    def sample_clients(server_round, *arguments, **keys):
        return new_strategy(**keys).sample_clients(server_round, *arguments)

    return sample_clients


@pytest.mark.parametrize(
    "wrapper", [DifferentialPrivacyClientSideFixedClipping, DifferentialPrivacyServerSideFixedClipping]
)
def test_the_strategy_refuses_to_be_wrapped_by_flowers_own(config, new_strategy, wrapper):
    """Its rounds would run without records and checkpoints, and the saved model would have no noise."""
    strategy = new_strategy()
    with pytest.raises(RunError, match="give dp-clipping-norm"):
        wrapper(strategy, 1.0, 1.0, 4).start(InProcessGrid(config), ArrayRecord(strategy.global_model))


def test_every_round_samples_other_clients_without_replacement(sample):
    rounds = [sample(number, num_clients=100, fraction_train=0.1) for number in range(1, 21)]
    assert all(len(set(clients)) == 10 for clients in rounds)
    assert len({tuple(clients) for clients in rounds}) == 20
    assert len({client for clients in rounds for client in clients}) > 75


def test_sampling_depends_on_the_seed_and_the_round_alone(sample):
    assert sample(3) == sample(3)
    assert any(sample(number) != sample(number, seed=8) for number in (1, 2, 3))


def test_a_further_attempt_at_a_round_is_drawn_anew(sample):
    draws = [tuple(sample(1, attempt)) for attempt in range(1, 5)]
    assert draws[0] == tuple(sample(1))
    assert len(set(draws)) > 2


def test_clients_that_failed_are_sampled_again_only_if_there_are_too_few_others(sample):
    assert sample(1, 2, {0, 1, 2, 3}, min_fit_clients=4) == [4, 5, 6, 7]
    draws = [sample(1, attempt, {0, 1, 2, 3, 4}, min_fit_clients=4) for attempt in range(2, 8)]
    assert any(client < 5 for clients in draws for client in clients)


def test_a_run_samples_these_clients_and_the_seed_changes_its_model(config, sample):
    run, _ = run_server(config | {"num-finetune-epochs": 0})
    other, _ = run_server(config | {"num-finetune-epochs": 0, "seed": 8})
    assert [record.clients for record in run.rounds] == [sample(number) for number in (1, 2, 3)]
    assert not torch.equal(run.model()["body.0.0.weight"], other.model()["body.0.0.weight"])


def test_a_round_with_too_few_clients_is_repeated_with_others(config, sample, monkeypatch, capsys):
    failing = sample(2)[0]
    fail_clients(monkeypatch, {failing}, RuntimeError("broken"), ["train_client"])
    run, _ = run_server(config | {"min-fit-clients": 4})
    for record in run.rounds:
        assert len(record.clients) == 4
        assert failing not in record.clients
        assert record.num_examples == sum(num_train_examples(run)[client] for client in record.clients)
    record = run.rounds[1]
    assert (record.attempts, record.failed) == (2, {failing: "RuntimeError: broken"})
    assert f"attempt 2   left out: client {failing} (" in capsys.readouterr().out
    assert run.summary["repeated-rounds"] == sum(record.attempts > 1 for record in run.rounds)


def test_clients_that_failed_are_sampled_again_if_all_are_needed(config, monkeypatch):
    fail_clients(monkeypatch, {4}, RuntimeError("once"), ["train_client"], once=True)
    run, _ = run_server(config | {"fraction-train": 1.0, "min-fit-clients": 8, "num-server-rounds": 1})
    assert (run.rounds[0].attempts, run.rounds[0].failed) == (2, {})
    assert run.rounds[0].num_examples == 96


def test_a_run_stops_after_its_retries_and_can_be_resumed(config, monkeypatch, capsys):
    config |= {"min-fit-clients": 3, "max-round-retries": 2, "algorithm": "fedper"}
    undisturbed, _ = run_server(config | {"results-dir": config["results-dir"] + "-without-faults"})
    with monkeypatch.context() as patch:
        fail_clients(patch, set(ALL_CLIENTS) - {0, 1}, RuntimeError("broken"), ["train_client"], training_rounds=[3])
        with pytest.raises(RunError, match=r"Round 3 was tried 3 times, but never had 3 clients \(min-fit-clients\)"):
            run_server(config)
    (folder,) = Path(config["results-dir"]).iterdir()
    assert sorted(path.stem for path in folder.glob("checkpoints/*")) == ["round-0", "round-2"]
    assert f"resume='{folder}' min-fit-clients=3 max-round-retries=2" in capsys.readouterr().out
    run, _ = run_server(config | {"resume": str(folder)})
    assert essence(run) == essence(undisturbed)


def test_a_client_that_diverges_alone_in_its_round_does_not_stop_the_run(config, sample, monkeypatch):
    config |= {"fraction-train": 0.125}
    (first,) = sample(1, fraction_train=0.125)
    make_clients_diverge(monkeypatch, {first})
    run, _ = run_server(config)
    assert run.rounds[0].failed == {first: "loss not finite"}
    assert run.rounds[0].attempts == 2


def test_a_run_of_which_every_client_diverges_stops(config, monkeypatch):
    make_clients_diverge(monkeypatch, set(ALL_CLIENTS))
    with pytest.raises(DivergedError, match=r"round 1, .*every client that was tried"):
        run_server(config | {"fraction-train": 0.125})


def test_a_run_that_diverges_names_the_learning_rate_and_is_not_to_be_resumed(config, capsys):
    with pytest.raises(DivergedError, match=r"round 1, at learning rate 1e\+20: the loss of all 4 clients"):
        run_server(config | {"learning-rate": 1e20, "algorithm": "fedavg"})
    assert "To resume it" not in capsys.readouterr().out


def test_a_run_that_diverges_names_other_keys_that_were_changed(config):
    keys = {"algorithm": "fedprox", "proximal-mu": 1e30, "batch-size": 2}
    with pytest.raises(
        DivergedError, match=r"learning-rate below 0.1, or .* changed: .*proximal-mu = 1e\+30 \(default 0.01\)"
    ):
        run_server(config | keys)


LOCAL_ONLY = {"algorithm": "local-only", "learning-rate": 1e20, "num-local-epochs": 1}


def test_local_only_that_diverges_says_in_which_of_its_rounds(config, capsys):
    with pytest.raises(
        DivergedError, match=r"in training round 1 of 3, at learning rate 1e\+20: the loss of all 8 clients"
    ):
        run_server(config | LOCAL_ONLY)
    assert "To resume it" not in capsys.readouterr().out


def test_local_only_without_a_trained_client_says_why_and_offers_no_resume(config, capsys, monkeypatch):
    fail_clients(monkeypatch, ALL_CLIENTS, RuntimeError("no room"))
    with pytest.raises(
        NotResumableError, match=r"No client trained successfully: clients 0, .* \(RuntimeError: no room\)"
    ):
        run_server(config | LOCAL_ONLY | {"learning-rate": 0.1})
    assert "To resume it" not in capsys.readouterr().out


def test_centralized_training_that_diverges_stops(config):
    centralized = {"fraction-train": 0.0, "server-data-fraction": 1.0, "algorithm": "fedavg", "learning-rate": 1e20}
    with pytest.raises(DivergedError, match=r"round 1, at learning rate .*: the loss on the server"):
        run_server(config | centralized)


def test_the_model_is_written_before_a_final_evaluation_that_fails(config, monkeypatch):
    fail_clients(monkeypatch, ALL_CLIENTS, RuntimeError("out of memory"), ["fine_tune_client"])
    with pytest.raises(RunError, match=r"after round 3: clients 0, 1, .*out of memory"):
        run_server(config)
    (folder,) = Path(config["results-dir"]).iterdir()
    run = RunFolder(folder)
    assert run.model().keys() == build_model("FourConvNet", (3, 16, 16), 10, 0).state_dict().keys()
    assert len(run.rounds) == 2
