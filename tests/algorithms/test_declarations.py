"""What each algorithm shares and keeps is what its messages and client states contain."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from flwr.app import MessageType
from support.errors import config_error
from support.in_process import client_states, essence, run_server
from support.reference_runs import start_of
from support.run_configs import tiny_run_config

from fedbabu.algorithms import ALGORITHMS, Algorithm, Part, Phase
from fedbabu.algorithms.schedule import Schedule
from fedbabu.config import RunConfig, default_run_config
from fedbabu.models import build_model

# The paper's description of each algorithm, written out here so that a declaration is not compared with itself.
SHARED_AND_KEPT = {
    "fedavg": ("full", ""),
    "fedbabu": ("body", ""),
    "fedper": ("body", "head"),
    "lg-fedavg": ("head", "body"),
    "fedrep": ("body", "head"),
    "per-fedavg": ("full", ""),
    "ditto": ("full", "full"),
    "local-only": ("", "full"),
    "fedprox": ("full", ""),
    "fedprox-babu": ("body", ""),
    "fedbsd": ("body", "full"),
}
SHORT = {"num-server-rounds": 2, "num-local-epochs": 1, "num-finetune-epochs": 1, "evaluate-every": 0}


def names_of(part, state):
    """The names of the parameters of a part."""
    return {name for name in state if part == "full" or name.split(".")[0] == part}


@pytest.fixture(scope="module", params=ALGORITHMS)
def runs(request, tiny_dataset, tmp_path_factory):
    """A run of an algorithm on two nodes and the same on eight, the messages of the latter, and the initial model."""
    folder = tmp_path_factory.mktemp("declarations")
    config, start = start_of(request.param, tiny_run_config(tiny_dataset, folder / "results") | SHORT, folder)
    two, _ = run_server(config, num_nodes=2)
    eight, grid = run_server(config, num_nodes=8)
    return SimpleNamespace(algorithm=request.param, two=two, eight=eight, grid=grid, start=start)


def test_clients_upload_what_is_shared(runs):
    shared, _ = SHARED_AND_KEPT[runs.algorithm]
    sizes = {name: 4 * runs.start[name].numel() for name in names_of(shared, runs.start)}
    replies = runs.grid.of_type(MessageType.TRAIN)
    for request, reply in replies:
        assert request.content["arrays"].keys() == runs.start.keys()
        assert {array.dtype for array in reply.content["arrays"].values()} <= {"float32"}
        assert {name: array.numpy().nbytes for name, array in reply.content["arrays"].items()} == sizes
    assert sum(runs.eight.communication) == 2 * sum(sizes.values()) * len(replies)


def test_clients_save_what_is_kept(runs):
    _, kept = SHARED_AND_KEPT[runs.algorithm]
    states = client_states(runs.eight)
    assert bool(states) == bool(kept)
    assert all(state.keys() == names_of(kept, runs.start) for state in states.values())


def test_what_is_not_shared_stays_as_it_was_initialized(runs):
    shared, _ = SHARED_AND_KEPT[runs.algorithm]
    moved = {name for name, value in runs.eight.model().items() if not torch.equal(value, runs.start[name])}
    assert moved == names_of(shared, runs.start)


def test_the_part_that_is_kept_but_not_shared_is_in_no_message(runs):
    shared, kept = (names_of(part, runs.start) for part in SHARED_AND_KEPT[runs.algorithm])
    private = {
        state[name].numpy().tobytes()
        for state in client_states(runs.eight).values()
        for name in kept - shared
        if name.endswith("weight") and state[name].dim() > 1
    }
    assert bool(private) == bool(kept - shared)
    for exchange in runs.grid.exchanges:
        for message in exchange:
            for record in message.content.array_records.values():
                assert not private & {array.numpy().tobytes() for array in record.values()}


def test_results_do_not_depend_on_the_number_of_nodes(runs):
    assert essence(runs.two) == essence(runs.eight)


def test_a_new_algorithm_is_one_declaration(tiny_config, monkeypatch):
    """This one trains the head, then everything towards small features; it shares the head and keeps the body."""

    def small_features(model, global_model, batch, coefficients):
        images, labels = batch
        features = model.features(images)
        return F.cross_entropy(model.head(features), labels) + features.square().mean()

    toy = Algorithm(
        "toy",
        trains=(Phase(Part.HEAD, epochs=1), Phase(Part.FULL, loss=small_features)),
        shares=Part.HEAD,
        keeps=Part.BODY,
        personalizes=(Phase(Part.BODY),),
    )
    monkeypatch.setitem(ALGORITHMS, "toy", toy)
    run, grid = run_server(tiny_config | SHORT | {"algorithm": "toy"})
    for _, reply in grid.of_type(MessageType.TRAIN):
        assert reply.content["arrays"].keys() == {"head.weight", "head.bias"}
    assert all(state.keys() == names_of("body", run.model()) for state in client_states(run).values())
    assert set(run.summary["accuracy"]) == {"without-head", "personalized"}
    assert all(len(record["accuracy"]) == 2 for record in run.clients)


def test_the_phases_of_a_declaration_keep_what_they_say(monkeypatch):
    phase = Phase(Part.FULL, trained_blocks=2, head_learning_rate_factor=0.1)
    monkeypatch.setitem(ALGORITHMS, "toy", Algorithm("toy", trains=(phase,), shares=Part.FULL))
    config = RunConfig.from_flower(default_run_config() | {"algorithm": "toy"})
    assert config.algorithm_spec.trains == (phase,)
    other = RunConfig.from_flower(config.to_flower() | {"trained-blocks": 1, "head-learning-rate-factor": 0.5})
    (changed,) = other.algorithm_spec.trains
    assert (changed.trained_blocks, changed.head_learning_rate_factor) == (1, pytest.approx(0.05))


@pytest.mark.parametrize(
    ("parts", "named"),
    [
        ({"shares": Part.NOTHING, "keeps": Part.FULL}, "`solo_server_rounds`"),
        ({"shares": Part.NOTHING, "schedule": Schedule(solo_server_rounds=10)}, "`keeps`"),
        ({"shares": Part.FULL, "trains_personal": (Phase(Part.FULL),)}, "must be Part.FULL"),
    ],
)
def test_a_declaration_whose_parts_do_not_fit_is_an_error(parts, named):
    with pytest.raises(ValueError, match=named):
        Algorithm("toy", trains=(Phase(Part.FULL),), **parts)


@pytest.mark.parametrize(("algorithm", "shared", "kept"), [("fedper", "body", "head"), ("fedbabu", "body", None)])
def test_with_head_blocks_the_last_blocks_are_trained_shared_and_kept_like_the_head(
    tiny_config, algorithm, shared, kept
):
    run, grid = run_server(tiny_config | SHORT | {"algorithm": algorithm, "head-blocks": 1})
    model, start = run.model(), build_model("FourConvNet", (3, 16, 16), 10, tiny_config["seed"], head_blocks=1)
    assert {"head.1.0.weight", "head.3.weight"} < names_of("head", model)
    for _, reply in grid.of_type(MessageType.TRAIN):
        assert reply.content["arrays"].keys() == names_of(shared, model)
    assert all(state.keys() == names_of(kept, model) for state in client_states(run).values())
    assert bool(client_states(run)) == bool(kept)
    for name in names_of("head", model):  # neither algorithm changes the head on the server
        assert torch.equal(model[name], start.state_dict()[name])


def test_too_many_head_blocks_are_refused(tiny_config):
    with config_error("head-blocks = 4", "at most 3"):
        run_server(tiny_config | SHORT | {"head-blocks": 4})


@pytest.mark.slow
def test_the_running_statistics_of_a_res_net_are_averaged(tiny_config):
    run, _ = run_server(
        tiny_config | SHORT | {"algorithm": "fedbabu", "model-name": "ResNet10", "num-server-rounds": 1}
    )
    start = build_model("ResNet10", (3, 16, 16), 10, tiny_config["seed"]).state_dict()
    moved = [name for name, value in run.model().items() if not torch.equal(value, start[name])]
    assert any(name.endswith("running_mean") for name in moved)
    assert any(name.endswith("running_var") for name in moved)
