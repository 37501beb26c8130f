"""Faults, provoked: clients, nodes and replies that fail, and places that cannot be written."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import PROJECT
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from in_process import InProcessGrid, essence, run_server

from fedbabu import client_app, plots
from fedbabu.config import RunConfig
from fedbabu.errors import ConfigError, DivergedError, RunError
from fedbabu.federation.messages import Offer
from fedbabu.models import build_model
from fedbabu.runs.checkpoints import Checkpoint
from fedbabu.runs.folder import RunFolder
from fedbabu.runs.progress import final_report
from fedbabu.server_app import discover
from fedbabu.strategy import SharedPartFedAvg

TRAIN = client_app._Node.train


@pytest.fixture
def run_config(run_config):
    return run_config | {"num-local-epochs": 1, "num-finetune-epochs": 1}


def failing(monkeypatch, clients, fault) -> None:
    """Let the training of some clients end in a fault: a function of nothing, called in the place of training."""

    def train(node, model, received, phases, examples, client, *rest):
        if client in clients:
            return fault()
        return TRAIN(node, model, received, phases, examples, client, *rest)

    monkeypatch.setattr("fedbabu.client_app._Node.train", train)


def raising(error):
    def fault():
        raise error

    return fault


def held(run) -> dict[int, int]:
    """Each client's training examples."""
    return {row["client"]: row["num-train-examples"] for row in run.clients}


def trained(run, record) -> int:
    """The examples of the clients of a round that trained well."""
    examples = held(run)
    return sum(examples[client] for client in record["clients"] if str(client) not in record["failed"])


def sampled(run_config, server_round):
    """The clients that a round begins with."""
    run, _ = run_server(run_config | {"results-dir": run_config["results-dir"] + "-undisturbed"})
    return run.rounds[server_round - 1]["clients"]


@pytest.mark.parametrize("num_nodes", [1, 2, 8])
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (raising(RuntimeError("CUDA out of memory")), "RuntimeError: CUDA out of memory"),
        (lambda: math.nan, "loss not finite"),
        (lambda: math.inf, "loss not finite"),
    ],
)
def test_a_client_that_fails_is_left_out_and_named(run_config, monkeypatch, capsys, fault, reason, num_nodes):
    run_config |= {"fraction-train": 1.0, "num-server-rounds": 1}
    failing(monkeypatch, {3}, fault)
    run, grid = run_server(run_config, num_nodes=num_nodes)
    (record,) = run.rounds
    assert record["failed"] == {"3": reason}
    examples = held(run)
    assert record["num-examples"] == sum(examples.values()) - examples[3]
    assert run.summary["failed"] == 1
    # The others' mean, as eight nodes would have it: each reply is one client's.
    replies = [reply.content for _, reply in grid.of_type("train")]
    if num_nodes == 8:
        states = [
            (content["arrays"].to_torch_state_dict(), examples[content["metrics"]["clients"][0]])
            for content in replies
            if content["metrics"]["clients"]
        ]
        assert len(states) == 7
        for name in states[0][0]:
            mean = sum(state[name].double() * num for state, num in states) / record["num-examples"]
            assert torch.equal(run.model()[name], mean.float())
    printed = capsys.readouterr().out
    assert f"left out: client 3 ({reason})" in printed
    assert "1 times, a client was left out of a round" in printed


def test_the_mean_of_the_others_does_not_depend_on_the_nodes(run_config, monkeypatch):
    failing(monkeypatch, {1, 4}, raising(ValueError("bad")))
    runs = [run_server(run_config, num_nodes=nodes)[0] for nodes in (1, 3, 8)]
    assert essence(runs[0])["states"] == essence(runs[1])["states"] == essence(runs[2])["states"]


def test_a_client_that_diverges_for_real(run_config, monkeypatch):
    """Its own images make it diverge: they are not finite after normalization."""
    run_config |= {"num-server-rounds": 1, "fraction-train": 1.0}
    client_examples = client_app.client_examples

    def examples(images, labels, rows, device):
        own = client_examples(images, labels, rows, device)
        return own if 0 not in rows else type(own)(own.images.float() * math.nan, own.labels)

    monkeypatch.setattr("fedbabu.client_app.client_examples", examples)
    run, _ = run_server(run_config)
    assert list(run.rounds[0]["failed"].values()) == ["loss not finite"]
    assert all(torch.isfinite(value).all() for value in run.model().values())
    assert set(run.summary["missing"].values()) == {"loss not finite"}


def test_a_client_that_takes_too_long_is_left_out(run_config, monkeypatch):
    def slow_epochs():
        time.sleep(0.6)
        yield 1.0

    own_train = client_app.train

    def train(model, received, examples, *rest, **more):
        yield from slow_epochs() if slow.pop() else own_train(model, received, examples, *rest, **more)

    slow = [False] * 40 + [True]
    monkeypatch.setattr("fedbabu.client_app.train", train)
    run, _ = run_server(run_config | {"client-timeout": 0.5, "num-server-rounds": 1, "num-local-epochs": 1})
    assert list(run.rounds[0]["failed"].values()) == ["TimeoutError: took longer than client-timeout = 0.5 s"]
    assert run.rounds[0]["num-examples"] == trained(run, run.rounds[0]) < sum(held(run).values()) / 2


def test_a_long_reason_is_one_line(run_config, monkeypatch, capsys):
    failing(monkeypatch, {0}, raising(RuntimeError("first\nsecond " + "x" * 1000)))
    run, _ = run_server(run_config | {"fraction-train": 1.0, "num-server-rounds": 1})
    reason = run.rounds[0]["failed"]["0"]
    assert reason.startswith("RuntimeError: first second xxx")
    assert len(reason) == 300
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("round")]
    assert line.endswith("left out: client 0 (RuntimeError: first second [...])")


def test_a_repeated_round_is_drawn_anew(run_config):
    run, _ = run_server(run_config | {"num-server-rounds": 1})
    federation = discover(InProcessGrid(run_config), RunConfig.from_flower(run_config))
    model = build_model("FourConvNet", (1, 16, 16), 10, 0)
    strategy = SharedPartFedAvg(
        RunConfig.from_flower(run_config), federation, run.path, "id", [Checkpoint.start(model)]
    )
    draws = []
    for attempt in range(1, 5):
        strategy._record = {"attempts": attempt, "failed": {}}
        draws.append(tuple(strategy.sample_clients(1)))
    assert draws[0] == tuple(run.rounds[0]["clients"])
    assert len(set(draws)) > 2


@pytest.mark.parametrize("rounds", [1, 2])
def test_a_client_whose_evaluation_takes_too_long_is_missing(run_config, monkeypatch, rounds):
    """In fine-tuning, and in an evaluation without it."""
    name = "evaluate_personalized" if rounds == 1 else "evaluate_initial"
    own, slow = getattr(client_app, name), [False] * 3 + [True]

    def evaluate(*arguments, **more):
        time.sleep(0.6 if slow and slow.pop() else 0)
        return own(*arguments, **more)

    monkeypatch.setattr(f"fedbabu.client_app.{name}", evaluate)
    run, _ = run_server(run_config | {"client-timeout": 0.5, "num-server-rounds": rounds})
    assert list(run.rounds[0]["missing"].values()) == ["TimeoutError: took longer than client-timeout = 0.5 s"]


def test_one_client_that_diverges_alone_in_its_round_is_not_all(run_config, monkeypatch):
    run_config |= {"fraction-train": 0.125}
    (first,) = sampled(run_config, 1)
    failing(monkeypatch, {first}, lambda: math.nan)
    run, _ = run_server(run_config)
    assert run.rounds[0]["failed"] == {str(first): "loss not finite"}
    assert run.rounds[0]["attempts"] == 2
    failing(monkeypatch, set(range(8)), lambda: math.nan)
    with pytest.raises(DivergedError, match=r"in round 1, .*: the loss of every client that was tried is not finite"):
        run_server(run_config)


def test_clients_that_failed_are_asked_again_if_there_are_no_others(run_config, monkeypatch):
    faults = iter([RuntimeError("once")])

    def once():
        for error in faults:
            raise error
        return 1.0

    failing(monkeypatch, {4}, once)
    run, _ = run_server(run_config | {"fraction-train": 1.0, "min-fit-clients": 8, "num-server-rounds": 1})
    assert (run.rounds[0]["attempts"], run.rounds[0]["failed"]) == (2, {})
    assert run.rounds[0]["num-examples"] == sum(held(run).values())


def test_a_round_of_too_few_is_repeated_with_others(run_config, monkeypatch, capsys):
    run_config |= {"min-fit-clients": 4}
    first = sampled(run_config, 2)
    failing(monkeypatch, {first[0]}, raising(RuntimeError("broken")))
    run, _ = run_server(run_config)
    for record in run.rounds:
        assert len(record["clients"]) == 4
        assert first[0] not in record["clients"]
        assert record["num-examples"] == trained(run, record)
    record = run.rounds[1]
    assert (record["attempts"], record["failed"]) == (2, {str(first[0]): "RuntimeError: broken"})
    assert "attempt 2   left out: client" in capsys.readouterr().out
    assert run.summary["repeated-rounds"] == sum(r["attempts"] > 1 for r in run.rounds)


def test_after_its_retries_a_run_stops_and_can_be_resumed(run_config, monkeypatch, capsys, tmp_path):
    run_config |= {"min-fit-clients": 3, "max-round-retries": 2, "algorithm": "fedper"}
    undisturbed, _ = run_server(run_config | {"results-dir": str(tmp_path / "whole")})
    with monkeypatch.context() as patch:
        own = SharedPartFedAvg.configure_train

        def configure_train(strategy, server_round, *rest):
            if server_round == 3:
                failing(patch, set(range(8)) - {0, 1}, raising(RuntimeError("the disk of client 2 is broken")))
            return own(strategy, server_round, *rest)

        patch.setattr(SharedPartFedAvg, "configure_train", configure_train)
        with pytest.raises(
            RunError, match=r"Round 3 was tried 3 times, but never had min-fit-clients = 3 clients that"
        ):
            run_server(run_config)
    (folder,) = Path(run_config["results-dir"]).iterdir()
    assert sorted(path.stem for path in folder.glob("checkpoints/*")) == ["round-0", "round-2"]
    assert f"resume='{folder}' min-fit-clients=3 max-round-retries=2" in capsys.readouterr().out
    run, _ = run_server(run_config | {"resume": str(folder)})
    assert essence(run) == essence(undisturbed)


def test_a_run_that_diverges_stops_and_says_at_which_rate(run_config, capsys):
    with pytest.raises(
        DivergedError,
        match=r"Training diverged in round 1, at learning rate 1e\+20: the loss of all 4 clients is not finite\. Start",
    ):
        run_server(run_config | {"learning-rate": 1e20, "algorithm": "fedavg"})
    assert "To go on" not in capsys.readouterr().out


def test_centralized_training_that_diverges_stops_too(run_config):
    central = {"fraction-train": 0.0, "server-data-fraction": 1.0, "algorithm": "fedavg", "learning-rate": 1e20}
    with pytest.raises(DivergedError, match=r"in round 1, at learning rate .*: the loss on the server is not finite"):
        run_server(run_config | central)


class FaultyGrid(InProcessGrid):
    """A grid in which a fault can befall the reply to a message: `fault(number, message, reply)` returns another."""

    fault = None

    def _reply(self, message):
        reply = super()._reply(message)
        asked = type(self).fault is not None and message.metadata.message_type == "train"
        return type(self).fault(message, reply) if asked else reply

    def send_and_receive(self, messages, *, timeout=None):
        self.timeout = timeout
        return [reply for reply in super().send_and_receive(messages) if reply is not None]


@pytest.fixture
def faulty(monkeypatch):
    monkeypatch.setattr("in_process.InProcessGrid", FaultyGrid)

    def install(fault):
        monkeypatch.setattr(FaultyGrid, "fault", staticmethod(fault))

    return install


def test_the_clients_of_a_node_that_dies_go_to_another(run_config, faulty, tmp_path):
    """A worker process that was killed answers with an error of Flower's; the run ends as if nothing had happened."""
    undisturbed, _ = run_server(run_config | {"results-dir": str(tmp_path / "whole")})
    faulty(
        lambda message, reply: (
            Message(Error(0, "The actor died."), reply_to=message) if message.metadata.dst_node_id == 101 else reply
        )
    )
    run, _ = run_server(run_config)
    for either in (mine := essence(run), its := essence(undisturbed)):
        for record in either["rounds"]:
            del record["bytes-sent"], record["bytes-received"]
    assert mine == its


def test_an_only_node_that_fails_once_is_asked_again(run_config, faulty):
    failures = iter([True, True, False] + [False] * 100)
    faulty(lambda message, reply: Message(Error(0, "gone"), reply_to=message) if next(failures) else reply)
    run, _ = run_server(run_config, num_nodes=1)
    assert [record["failed"] for record in run.rounds] == [{}, {}, {}]


def test_the_clients_of_a_node_that_is_silent_are_left_out(run_config, faulty):
    faulty(lambda message, reply: None if message.metadata.dst_node_id == 101 else reply)
    run, grid = run_server(run_config | {"client-timeout": 30.0})
    assert list(run.rounds[0]["failed"].values()) == ["node 101 did not answer within 180 s"] * 2
    # From then on, the other node gets all the work.
    assert [record["failed"] for record in run.rounds[1:]] == [{}, {}]
    assert grid.timeout == 30.0 * 8 + 120


def test_a_node_that_is_not_connected_any_more_is_not_asked(run_config, monkeypatch):
    """Of eight nodes with a client each, one leaves after the second round."""
    monkeypatch.setattr("fedbabu.strategy.RECONNECT_SECONDS", 0.0)
    late, left, nodes = sampled(run_config, 2), [], InProcessGrid.get_node_ids
    monkeypatch.setattr(InProcessGrid, "get_node_ids", lambda grid: [n for n in nodes(grid) if n not in left])
    append = RunFolder.append_round
    monkeypatch.setattr(RunFolder, "append_round", lambda run, r: (append(run, r), left.append(100 + late[0]))[0])
    run, _ = run_server(run_config, num_nodes=8)
    assert run.rounds[1]["failed"] == {str(late[0]): "no connected SuperNode offers it"}
    assert str(late[0]) in run.summary["missing"]


def with_arrays(change):
    """A fault that changes the state dict of every reply of node 101."""

    def fault(message, reply):
        if message.metadata.dst_node_id == 101:
            state = dict(reply.content["arrays"])
            change(state)
            reply.content["arrays"] = ArrayRecord(state)
        return reply

    return fault


def with_metrics(**values):
    def fault(message, reply):
        if message.metadata.dst_node_id == 101:
            reply.content["metrics"] = MetricRecord(dict(reply.content["metrics"]) | values)
        return reply

    return fault


def without(record):
    def fault(message, reply):
        if message.metadata.dst_node_id == 101:
            del reply.content[record]
        return reply

    return fault


WEIGHT = "body.0.0.weight"
FORM = r"float64 \[64, 1, 3, 3\]"


def put(name, value):
    return lambda state: state.update({name: Array(value) if isinstance(value, np.ndarray) else value})


@pytest.mark.parametrize(
    ("fault", "wrong"),
    [
        (with_arrays(lambda state: state.pop(WEIGHT)), f"it lacks {WEIGHT}"),
        (with_arrays(put("head.weight", np.zeros((10, 64)))), "it holds head.weight, which is not shared"),
        (with_arrays(put(WEIGHT, np.zeros((64, 1, 3, 3), np.float16))), f"its {WEIGHT} is float16 .*, not {FORM}"),
        (with_arrays(put(WEIGHT, np.zeros((64, 1, 3, 3), np.int64))), f"its {WEIGHT} is int64 .*, not {FORM}"),
        (with_arrays(put(WEIGHT, np.zeros((64, 3, 3, 3)))), rf"is float64 \[64, 3, 3, 3\], not {FORM}"),
        (with_arrays(put(WEIGHT, np.zeros(()))), rf"is float64 \[\], not {FORM}"),
        (with_arrays(put(WEIGHT, np.full((64, 1, 3, 3), np.nan))), f"its {WEIGHT} is not finite"),
        (with_arrays(put(WEIGHT, np.full((64, 1, 3, 3), -np.inf))), f"its {WEIGHT} is not finite"),
        (
            with_arrays(put(WEIGHT, Array("float64", (64, 1, 3, 3), "numpy.ndarray", b"no array"))),
            f"its {WEIGHT} cannot be read",
        ),
        (
            with_arrays(put(WEIGHT, Array("float64", (64, 1, 3, 3), "numpy.ndarray", Array(np.zeros((9, 9))).data))),
            rf"its {WEIGHT} holds float64 \[9, 9\], not {FORM}",
        ),
        (
            with_arrays(put(WEIGHT, Array("float64", (64, 1, 3, 3), "numpy.ndarray", Array(np.zeros(10**5)).data))),
            f"its {WEIGHT} has 800128 bytes, too many for {FORM}",
        ),
        (with_arrays(put(WEIGHT, np.full((64, 1, 3, 3), 1e300))), f"its {WEIGHT} is not finite"),
        (with_metrics(losses=[1.0]), "its losses are"),
        (with_metrics(clients=[0.5]), r"it is about the clients \[0.5\], asked were"),
        (with_metrics(**{"num-examples": 10**9}), "its num-examples is 1000000000, its clients have"),
        (with_metrics(weight=-3), "its weight is -3, neither 1 nor"),
        (with_metrics(losses=[math.nan, 1.0]), "its losses are"),
        (with_metrics(clients=[0, 1, 2, 3, 4, 5, 6, 7]), r"it is about the clients \[0, 1, .*\], asked were"),
        (with_metrics(clients=[99]), r"it is about the clients \[99\], asked were"),
        (without("arrays"), "it holds no arrays"),
        (without("metrics"), "it holds arrays, failed, not metrics and failed"),
        (without("failed"), "it holds arrays, metrics, not metrics and failed"),
    ],
)
def test_a_malicious_reply_is_refused_by_name(run_config, faulty, fault, wrong):
    faulty(fault)
    run, _ = run_server(run_config | {"num-server-rounds": 1})
    (record,) = run.rounds
    reasons = set(record["failed"].values())
    assert len(record["failed"]) == 2
    assert len(reasons) == 1
    assert re.match(f"the reply of node 101 is refused: .*{wrong}", reasons.pop())
    assert record["num-examples"] == trained(run, record)
    assert all(torch.isfinite(value).all() for value in run.model().values())


def test_what_an_evaluation_does_not_cover_is_said_everywhere(run_config, monkeypatch, capsys):
    evaluate = client_app.evaluate_personalized
    calls = iter(range(100))

    def third_fails(*arguments, **more):
        if next(calls) == 2:
            raise RuntimeError("broken")
        return evaluate(*arguments, **more)

    monkeypatch.setattr("fedbabu.client_app.evaluate_personalized", third_fails)
    run, _ = run_server(run_config, num_nodes=1)
    (missing,) = run.summary["missing"]
    assert run.summary["num-clients"] == len(run.clients) == 7
    assert run.rounds[-1]["missing"] == run.summary["missing"] == {missing: "RuntimeError: broken"}
    printed = capsys.readouterr().out
    assert f"% of 7 of 8 clients, not client {missing} (RuntimeError: broken)" in printed
    assert f"Mean ± std over 7 of 8 clients, missing client {missing} (RuntimeError: broken)" in printed
    assert "7 of 8 clients" in final_report(run)
    legend = plots.accuracy_over_rounds([run]).axes[0].get_legend()
    assert "not of all clients" in [text.get_text() for text in legend.get_texts()]
    for draw in (plots.accuracy_over_rounds, plots.accuracy_over_clients, plots.accuracy_over_finetune_epochs):
        figure = draw([run])
        legends = [*figure.legends, *(axes.get_legend() for axes in figure.axes if axes.get_legend())]
        assert any("7 of 8 clients" in text.get_text() for legend in legends for text in legend.get_texts())


def test_whoever_never_trained_alone_is_not_evaluated(run_config, monkeypatch):
    failing(monkeypatch, {2}, raising(RuntimeError("broken")))
    run, _ = run_server(run_config | {"algorithm": "local-only"})
    assert run.summary["missing"] == {"2": "it never trained"}
    assert run.summary["num-clients"] == 7
    assert run.rounds[2]["failed"] == {"2": "RuntimeError: broken"}


@pytest.mark.parametrize(
    ("name", "values", "wrong"),
    [
        ("accuracy", lambda values: [1e9] * len(values), r"its accuracy is 1000000000\.0"),
        ("accuracy", lambda values: values[:-1], "its accuracy is not 2 numbers for every client"),
        ("loss", lambda values: [math.nan] * len(values), "its loss is nan"),
        ("loss", lambda values: values[::2], "its loss is not 2 numbers for every client"),
        ("without_head_accuracy", lambda values: [], "its without_head_accuracy is not 1 numbers for every client"),
        ("id_accuracy", lambda values: [5.0] * 12, "its id_accuracy is not 0 numbers for every client"),
        ("clients", lambda values: [*values, 77], r"it is about the clients \[.*77\], asked were"),
    ],
)
def test_a_reply_to_an_evaluation_is_checked(run_config, monkeypatch, name, values, wrong):
    def reply_of(grid, message):
        reply = own(grid, message)
        if message.metadata.message_type == "evaluate" and message.metadata.dst_node_id == 101:
            metrics = dict(reply.content["metrics"])
            reply.content["metrics"] = MetricRecord(metrics | {name: values(metrics[name])})
        return reply

    own = InProcessGrid._reply
    monkeypatch.setattr(InProcessGrid, "_reply", reply_of)
    run, _ = run_server(run_config | {"num-server-rounds": 1})
    (reason,) = set(run.summary["missing"].values())
    assert re.match(f"the reply of node 101 is refused: {wrong}", reason)
    assert run.summary["num-clients"] == 4


@pytest.mark.parametrize(
    ("forge", "wrong"),
    [
        (lambda arrays: {name: 100 * value for name, value in arrays.items()}, "its .* is no sum of 4 unit vectors"),
        (lambda arrays: {name: value * math.nan for name, value in arrays.items()}, "its .* is no sum of 4 unit"),
        (lambda arrays: dict(list(arrays.items())[1:]), ""),
        (lambda arrays: {name: value[1:] for name, value in arrays.items()}, ""),
    ],
)
def test_what_a_reply_records_for_figures_is_checked(run_config, monkeypatch, forge, wrong):
    def reply_of(grid, message):
        reply = own(grid, message)
        evaluated = message.metadata.message_type == "evaluate" and "arrays" in reply.content
        if evaluated and message.metadata.dst_node_id == 101:
            reply.content["arrays"] = ArrayRecord(forge(reply.content["arrays"].to_torch_state_dict()))
        return reply

    own = InProcessGrid._reply
    monkeypatch.setattr(InProcessGrid, "_reply", reply_of)
    run, _ = run_server(run_config | {"num-server-rounds": 1, "record": "similarity"})
    (reason,) = set(run.summary["missing"].values())
    assert re.match(f"the reply of node 101 is refused: {wrong}", reason)
    assert run.summary["num-clients"] == 4
    assert all(value <= 1 + 1e-6 for layer in run.similarity.values() for value in layer)  # of the others


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({"classes": ["a"] * 8}, "its num_classes is 10 and its classes are"),
        ({"clients": ["0"] * 8}, r"its clients is \['0'"),
        ({"clients": list(range(1, 9))}, r"its image_shape is \[1, 16, 16\] and its clients are \[1, 2"),
        ({"num_classes": 10**12}, "its num_classes is 1000000000000"),
        ({"image_shape": [1, 16]}, r"its image_shape is \[1, 16\]"),
        ({"num_train": [180]}, "it does not say of every client what it holds"),
        ({"device": 3}, "its device is 3"),
    ],
)
def test_an_offer_is_checked(run_config, monkeypatch, change, wrong):
    own = Offer.to_content
    monkeypatch.setattr(
        Offer, "to_content", lambda offer: RecordDict({"offer": ConfigRecord(dict(own(offer)["offer"]) | change)})
    )
    with pytest.raises(ConfigError, match=f"The offer of node 100 is refused: {wrong}"):
        run_server(run_config)


def test_a_node_that_fails_when_it_is_first_asked_is_asked_again(run_config, monkeypatch):
    failures = iter([True, False, False, True])
    own = InProcessGrid._reply

    def reply_of(grid, message):
        if message.metadata.message_type == "query" and next(failures, False):
            return Message(Error(0, "The actor died."), reply_to=message)
        return own(grid, message)

    monkeypatch.setattr(InProcessGrid, "_reply", reply_of)
    run, _ = run_server(run_config | {"num-server-rounds": 1})
    assert len(run.clients) == 8


def test_means_over_few_of_the_clients_say_so(run_config, capsys):
    """Only some clients have test images in, or out of, their distribution."""
    keys = {
        "iid-test-set": True,
        "partition": "dirichlet",
        "dirichlet-beta": 0.5,
        "num-clients": 6,
        "num-server-rounds": 1,
    }
    run, _ = run_server(run_config | keys)
    accuracy, printed = run.summary["accuracy"], capsys.readouterr().out
    number = accuracy["ood-initial"]["num-clients"]
    assert number == np.isfinite([row["ood-accuracy"][0] or math.nan for row in run.clients]).sum() < 6
    assert accuracy["personalized"]["num-clients"] == 6
    assert f"({number} of 6" in printed


ON_A_SMALL_DISK = """
import json, os, subprocess, sys
sys.path.insert(0, {tests!r})
import conftest, torch
from fedbabu.runs.folder import RunFolder
from fedbabu.errors import RunError
from in_process import run_server, essence
torch.set_num_threads(1)
disk, fault, algorithm = sys.argv[1:]
config = json.loads(os.environ["CONFIG"]) | {{"algorithm": algorithm}}
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "none", disk], check=True)
whole = essence(run_server(config | {{"results-dir": disk + "/whole"}})[0])
subprocess.run(["umount", disk], check=True)
size = "size=1300k" if fault == "full" else "size=64m"
subprocess.run(["mount", "-t", "tmpfs", "-o", size, "none", disk], check=True)
append = RunFolder.append_round
def appended(run, record):
    append(run, record)
    if record["round"] == 3 and fault == "read-only":
        for options in ("--bind", "-oremount,bind,ro"):
            subprocess.run(["mount", options, run.path / "checkpoints", run.path / "checkpoints"], check=True)
RunFolder.append_round = appended
try:
    run_server(config)
except RunError as error:
    print("SENTENCE", error)
RunFolder.append_round = append
(folder,) = [disk + "/results/" + name for name in os.listdir(disk + "/results")]
print("ROUNDS", len(RunFolder(folder).rounds), RunFolder(folder).config["algorithm"])
if fault == "read-only":
    subprocess.run(["umount", folder + "/checkpoints"], check=True)
else:
    subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
print("SAME", essence(run_server(config | {{"resume": folder}})[0]) == whole)
"""


@pytest.mark.parametrize("algorithm", ["fedbabu", "ditto"])
@pytest.mark.parametrize(
    ("fault", "sentence"), [("full", "No space left on device"), ("read-only", "Read-only file system")]
)
def test_a_disk_that_fails_costs_nothing_that_was_written(run_config, tmp_path, algorithm, fault, sentence):
    """A real one, full or read-only: the run names the path and, once there is room, ends as an undisturbed one."""
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("this machine does not let a test mount a disk of its own")
    disk = tmp_path / "disk"
    disk.mkdir()
    config = run_config | {"results-dir": f"{disk}/results", "checkpoint-every": 1, "num-server-rounds": 4}
    command = ["unshare", "-rm", sys.executable, "-c", ON_A_SMALL_DISK.format(tests=str(PROJECT / "tests"))]
    result = subprocess.run(
        [*command, str(disk), fault, algorithm], env=os.environ | {"CONFIG": json.dumps(config)},
        capture_output=True, text=True, timeout=300, cwd=PROJECT,
    )  # fmt: skip
    lines = dict(line.split(" ", 1) for line in result.stdout.splitlines() if line[:4] in ("SENT", "ROUN", "SAME"))
    assert lines.keys() == {"SENTENCE", "ROUNDS", "SAME"}, result.stdout + result.stderr
    assert sentence in lines["SENTENCE"]
    assert f"{disk}/results/" in lines["SENTENCE"]
    assert re.fullmatch(rf"[0-4] {algorithm}", lines["ROUNDS"])
    assert lines["SAME"] == "True"


def test_a_folder_that_is_removed_is_named(run_config, monkeypatch):
    append = RunFolder.append_round

    def appended(run, record):
        append(run, record)
        if record["round"] == 2:
            shutil.rmtree(run.path)

    monkeypatch.setattr(RunFolder, "append_round", appended)
    with pytest.raises(
        RunError, match=r"at a file that it cannot use: .*No such file or directory: '/.*fedbabu-digits/"
    ):
        run_server(run_config | {"checkpoint-every": 1})


def test_two_runs_at_once_do_not_meet(run_config, tmp_path):
    """They share the results folder, and a cache in which the images are not yet decoded."""
    code = (
        f"import json, os, sys; sys.path.insert(0, {str(PROJECT / 'tests')!r}); import in_process, torch;"
        "torch.set_num_threads(1); in_process.run_server(json.loads(os.environ['CONFIG']))"
    )
    config = run_config | {"algorithm": "fedper"}
    environment = os.environ | {"CONFIG": json.dumps(config), "FEDBABU_CACHE": str(tmp_path / "cache")}
    both = [subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE) for _ in range(2)]
    for process in both:
        _, errors = process.communicate(timeout=200)
        # Only the end of run_server, which expects to be alone, may object.
        assert process.returncode == 0 or b"too many values to unpack" in errors, errors.decode()
    alone, _ = run_server(config | {"results-dir": str(tmp_path / "alone")})
    folders = sorted(Path(run_config["results-dir"]).iterdir())
    assert len(folders) == 2
    assert all(essence(RunFolder(folder)) == essence(alone) for folder in folders)


def test_nothing_is_unpickled():
    """Nor executed: models and state are safetensors, the rest JSON, TOML, NumPy arrays or Flower's records."""
    forbidden = re.compile(r"pickle|torch\.(load|save)\b|marshal|shelve|joblib|dill\b|\beval\(|\bexec\(|weights_only")
    for path in [*(PROJECT / "fedbabu").rglob("*.py")]:
        found = [line for line in path.read_text(encoding="utf-8").splitlines() if forbidden.search(line)]
        assert [line for line in found if ".eval()" not in line] == [], path


def test_messages_are_flowers_records(run_config):
    run_config |= {"num-server-rounds": 1}
    _, grid = run_server(run_config)
    for request, reply in grid.exchanges:
        for record in [*request.content.values(), *reply.content.values()]:
            assert isinstance(record, ArrayRecord | ConfigRecord | MetricRecord)
    assert RunConfig.from_flower(dict(request.content["run-config"])).to_flower() == run_config
