"""Clients that fail, diverge or take too long are left out and named; the others go on."""

import pytest
import torch
from support.faults import fail_clients, make_clients_diverge, num_train_examples, slow_down_clients
from support.figures import lines
from support.in_process import essence, run_server

from fedbabu.federation.messages import Task
from fedbabu.plots.accuracy import accuracy_over_clients, accuracy_over_finetune_epochs, accuracy_over_rounds
from fedbabu.plots.paper_figures import class_accuracy
from fedbabu.runs.progress import final_report

ALL_CLIENTS = {"fraction-train": 1.0, "num-server-rounds": 1}


def num_trained(run, record):
    """Number of training examples of the sampled clients of a round that did not fail."""
    examples = num_train_examples(run)
    return sum(examples[client] for client in record.clients if client not in record.failed)


@pytest.mark.parametrize("num_nodes", [1, 2, 8])
def test_a_client_that_fails_is_left_out_and_named(tiny_config, monkeypatch, capsys, num_nodes):
    fail_clients(monkeypatch, {3}, RuntimeError("CUDA out of memory"), work=["train_client"])
    run, _ = run_server(tiny_config | ALL_CLIENTS, num_nodes=num_nodes)
    (record,) = run.rounds
    assert record.failed == {3: "RuntimeError: CUDA out of memory"}
    assert record.num_examples == num_trained(run, record) == 96 - num_train_examples(run)[3]
    assert run.summary["failed"] == 1
    printed = capsys.readouterr().out
    assert "left out: client 3 (RuntimeError: CUDA out of memory)" in printed
    assert "1 times, a client was left out of a round" in printed


def test_the_model_is_the_mean_of_the_clients_that_did_not_fail(tiny_config, monkeypatch):
    fail_clients(monkeypatch, {3}, RuntimeError("broken"), work=["train_client"])
    run, grid = run_server(tiny_config | ALL_CLIENTS, num_nodes=8)
    examples, states = num_train_examples(run), {}
    for message, reply in grid.of_type("train"):
        (client,) = Task.from_content(message.content).clients
        states[client] = reply.content["arrays"].to_torch_state_dict()
    assert states.pop(3) == {}
    assert sorted(states) == [0, 1, 2, 4, 5, 6, 7]
    for name in states[0]:
        total = sum(state[name].double() * examples[client] for client, state in states.items())
        assert torch.equal(run.model()[name], (total / run.rounds[0].num_examples).float())


def test_the_mean_of_the_others_does_not_depend_on_the_number_of_nodes(tiny_config, monkeypatch):
    fail_clients(monkeypatch, {1, 4}, ValueError("bad"))
    runs = [run_server(tiny_config, num_nodes=nodes)[0] for nodes in (1, 3, 8)]
    assert essence(runs[0])["states"] == essence(runs[1])["states"] == essence(runs[2])["states"]


@pytest.mark.parametrize("algorithm", ["fedbabu", "ditto"])
def test_a_client_that_diverges_is_left_out(tiny_config, monkeypatch, algorithm):
    make_clients_diverge(monkeypatch, {5})
    run, _ = run_server(tiny_config | ALL_CLIENTS | {"algorithm": algorithm})
    assert run.rounds[0].failed == run.rounds[0].missing == {5: "loss not finite"}
    assert run.summary["missing"] == {"5": "loss not finite"}
    assert all(torch.isfinite(value).all() for value in run.model().values())


def test_a_client_that_takes_too_long_to_train_is_left_out(tiny_config, monkeypatch):
    slow_down_clients(monkeypatch, {6}, 31.0, "train")
    run, _ = run_server(tiny_config | ALL_CLIENTS | {"client-timeout": 30.0})
    (record,) = run.rounds
    assert record.failed.keys() == {6}
    assert "client-timeout = 30.0" in record.failed[6]
    assert record.num_examples == num_trained(run, record)


@pytest.mark.parametrize("num_rounds", [1, 2])
def test_a_client_that_takes_too_long_to_be_evaluated_is_missing(tiny_config, monkeypatch, num_rounds):
    """The first of two rounds is evaluated without fine-tuning."""
    slow_down_clients(monkeypatch, {6}, 31.0, "test")
    run, _ = run_server(tiny_config | {"client-timeout": 30.0, "num-server-rounds": num_rounds})
    for record in run.rounds:
        assert record.missing.keys() == {6}
        assert "client-timeout = 30.0" in record.missing[6]


def test_a_long_reason_is_recorded_in_part_and_printed_on_one_line(tiny_config, monkeypatch, capsys):
    fail_clients(monkeypatch, {0}, RuntimeError("first\nsecond " + "x" * 1000), work=["train_client"])
    run, _ = run_server(tiny_config | ALL_CLIENTS)
    reason = run.rounds[0].failed[0]
    assert reason.startswith("RuntimeError: first second xxx")
    assert len(reason) == 300
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("round")]
    assert line.endswith("left out: client 0 (RuntimeError: first second [...])")


def test_clients_that_are_not_evaluated_are_named_in_every_output(tiny_config, monkeypatch, capsys):
    fail_clients(monkeypatch, {2}, RuntimeError("broken"), work=["fine_tune_client"])
    run, _ = run_server(tiny_config, figures=True)
    assert run.summary["num-clients"] == len(run.clients) == 7
    assert run.summary["missing"] == {"2": "RuntimeError: broken"}
    assert run.rounds[-1].missing == {2: "RuntimeError: broken"}
    printed = capsys.readouterr().out
    assert "% of 7 of 8 clients, without client 2 (RuntimeError: broken)" in printed
    assert "Mean ± std over 7 of 8 clients, missing client 2 (RuntimeError: broken)" in printed
    assert "7 of 8 clients" in final_report(run)
    for draw in (accuracy_over_rounds, accuracy_over_clients, accuracy_over_finetune_epochs):
        figure = draw([run])
        legends = [*figure.legends, *(axes.get_legend() for axes in figure.axes if axes.get_legend())]
        assert any("7 of 8 clients" in text.get_text() for legend in legends for text in legend.get_texts())


def test_with_local_only_a_client_that_did_not_train_is_not_evaluated(tiny_config, monkeypatch):
    fail_clients(monkeypatch, {2}, RuntimeError("broken"), work=["train_client"])
    run, _ = run_server(tiny_config | {"algorithm": "local-only"})
    assert run.rounds[2].failed == {2: "RuntimeError: broken"}
    assert run.summary["missing"] == {"2": "it never trained: RuntimeError: broken"}
    assert run.summary["num-clients"] == 7


def test_with_local_only_a_round_in_which_no_client_trains_has_no_class_accuracy(tiny_config, monkeypatch):
    fail_clients(monkeypatch, {2}, RuntimeError("broken"), work=["train_client"])
    run, _ = run_server(tiny_config | {"algorithm": "local-only", "record": "class-accuracy"})
    assert [bool(record.in_class) for record in run.rounds] == [record.clients != [2] for record in run.rounds]
    (points, *_) = lines(class_accuracy([run])).values()
    assert len(points) == sum(len(record.in_class) for record in run.rounds if record.in_class)


def test_with_local_only_a_client_has_its_time_for_each_round_that_it_trains(tiny_config, monkeypatch):
    """Client 2 takes 250 seconds for three rounds of at most 100; client 5 takes 350."""
    config = tiny_config | {"algorithm": "local-only", "client-timeout": 100.0}
    slow_down_clients(monkeypatch, {2}, seconds=250.0, split="train")
    run, _ = run_server(config | {"num-finetune-epochs": 0})
    assert run.rounds[2].failed == {}
    slow_down_clients(monkeypatch, {5}, seconds=350.0, split="train")
    run, _ = run_server(config)
    assert run.rounds[5].failed == {5: "TimeoutError: took longer than client-timeout = 100.0 s for each of 3 rounds"}
