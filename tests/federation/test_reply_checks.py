"""Replies that do not answer what a node was asked are refused, by the name of what is wrong with them."""

import io
import math
import re

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord
from support.faults import change_arrays, change_clients, change_values, forge_replies, num_train_examples
from support.in_process import essence, run_server

from fedbabu.config import TEMPLATES
from fedbabu.models.networks import CONV_NET_WIDTH

WEIGHT = "body.0.0.weight"
SHAPE = (CONV_NET_WIDTH, 3, 3, 3)


@pytest.fixture
def config(tiny_config):
    """One round of four clients, two on each of two nodes."""
    return tiny_config | {"num-server-rounds": 1, "evaluate-every": 0}


def replace_array(name, value):
    """A forgery in which an array has another value, or is added."""
    return change_arrays(lambda arrays: arrays.update({name: Array(value) if isinstance(value, np.ndarray) else value}))


def bytes_as_weight(content):
    """A forgery in which the bytes of an array are others, with the type and shape that it must have."""
    return replace_array(WEIGHT, Array("float64", SHAPE, "numpy.ndarray", content))


def pickled_array():
    """The bytes of a NumPy file that contains pickled objects."""
    file = io.BytesIO()
    np.save(file, np.array([{"not": "a number"}], dtype=object), allow_pickle=True)
    return file.getvalue()


def add_result(client, **result):
    """A forgery with the result of one more client."""
    return change_values(lambda values: values["results"].update({client: result}))


def drop_record(name):
    """A forgery in which a record is missing."""
    return lambda content: content.pop(name)


# Each forgery of a reply to a train message, and what the reason must name.
TRAIN_FORGERIES = [
    (change_arrays(lambda arrays: arrays.pop(WEIGHT)), WEIGHT),
    (replace_array("head.weight", np.zeros((10, CONV_NET_WIDTH))), "head.weight"),
    (replace_array(WEIGHT, np.zeros(SHAPE, np.float16)), f"{WEIGHT} is float16"),
    (replace_array(WEIGHT, np.zeros(SHAPE, np.int64)), f"{WEIGHT} is int64"),
    (replace_array(WEIGHT, np.zeros((64, 9, 3))), rf"{WEIGHT} is float64 \[64, 9, 3\]"),
    (replace_array(WEIGHT, np.zeros(())), rf"{WEIGHT} is float64 \[\]"),
    (replace_array(WEIGHT, np.full(SHAPE, np.nan)), f"{WEIGHT} is not finite"),
    (replace_array(WEIGHT, np.full(SHAPE, -np.inf)), f"{WEIGHT} is not finite"),
    (replace_array(WEIGHT, np.full(SHAPE, 1e300)), f"{WEIGHT} is not finite"),  # as float32
    (bytes_as_weight(b"no array"), f"{WEIGHT} cannot be read"),
    (bytes_as_weight(pickled_array()), f"{WEIGHT} cannot be read"),
    (bytes_as_weight(Array(np.zeros((9, 9))).data), rf"{WEIGHT} contains float64 \[9, 9\]"),
    (bytes_as_weight(Array(np.zeros(10**5)).data), f"{WEIGHT} has 800128 bytes"),
    (drop_record("arrays"), "arrays"),
    (drop_record("content"), "content"),
    (lambda content: content["content"].update({"json": "no JSON"}), "content"),
    (change_clients(loss=math.nan), "loss"),
    (change_clients(loss="low"), "loss"),
    (change_clients(loss=[1.0]), "loss"),
    (change_clients(speed=1.0), "speed"),
    (change_clients(in_class=[50.0]), "in_class has 1"),
    (change_values(lambda values: values.pop("results")), "num_examples"),
    (change_values(lambda values: values.update(num_examples=10**9)), "num_examples is 1000000000"),
    (change_values(lambda values: values.update(num_examples=-3)), "num_examples is -3"),
    (change_values(lambda values: values.update(num_examples="many")), "num_examples"),
    (change_values(lambda values: values.update(failed=["all"])), "failed"),
    (add_result("77", loss=1, in_class=[], out_of_class=[]), "77"),
    (add_result("x", loss=1, in_class=[], out_of_class=[]), "x"),
]  # fmt: skip


@pytest.mark.parametrize(("forgery", "named"), TRAIN_FORGERIES)
def test_a_forged_reply_to_a_train_message_is_refused_by_name(config, forgery, named):
    run, _ = run_server(config | {"num-finetune-epochs": 0}, fault=forge_replies(forgery))
    (record,) = run.rounds
    assert len(record.failed) == 2
    (reason,) = set(record.failed.values())
    assert "the reply of node 101 is refused" in reason
    assert re.search(named, reason)
    examples = num_train_examples(run)
    assert record.num_examples == sum(examples[client] for client in record.clients if client not in record.failed)
    assert all(torch.isfinite(value).all() for value in run.model().values())


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (np.zeros(SHAPE), f"{WEIGHT} is float64"),
        (np.full(SHAPE, np.nan, np.float32), f"{WEIGHT} is not finite"),
    ],
)
def test_a_forged_reply_of_a_node_with_one_client_is_refused_by_name(config, value, named):
    """Such a reply contains the parameters of the client instead of a sum."""
    config |= {"fraction-train": 1.0, "num-finetune-epochs": 0}
    run, _ = run_server(config, num_nodes=8, fault=forge_replies(replace_array(WEIGHT, value)))
    assert run.rounds[0].failed.keys() == {1}
    assert re.search(named, run.rounds[0].failed[1])


def test_a_node_cannot_choose_the_weight_of_its_reply(config):
    forgery = change_values(lambda values: values.update(weight=1000))
    honest, _ = run_server(config)
    forged, _ = run_server(config, fault=forge_replies(forgery))
    assert essence(forged) == essence(honest)


# Each forgery of a reply to an evaluate message, and what the reason must name.
EVALUATE_FORGERIES = [
    (change_clients(accuracy=lambda values: [1e9] * len(values)), r"accuracy.*1000000000\.0"),
    (change_clients(accuracy=lambda values: [math.nan] * len(values)), "accuracy"),
    (change_clients(accuracy=lambda values: values[:-1]), "accuracy has 1"),
    (change_clients(loss=lambda values: [math.nan] * len(values)), "loss"),
    (change_clients(loss=lambda values: values[::2]), "loss has 1"),
    (change_clients(without_head_accuracy=None), "without_head_accuracy is refused"),
    (change_clients(without_head_accuracy={"cosine plain mixed": 5.0}), "without_head_accuracy has 1"),
    (change_clients(without_head_accuracy=dict.fromkeys("abcdefgh", 5.0)), "without_head_accuracy is of 'a', 'b'"),
    (change_clients(without_head_accuracy=dict.fromkeys(TEMPLATES, 101.0)), "without_head_accuracy"),
    (change_clients(id_accuracy=[5.0] * 12), "id_accuracy has 12"),
    (change_clients(ood_accuracy=[-1.0]), "ood_accuracy"),
    (add_result("77"), "77"),
    (drop_record("content"), "content"),
]


@pytest.mark.parametrize(("forgery", "named"), EVALUATE_FORGERIES)
def test_a_forged_reply_to_an_evaluate_message_is_refused_by_name(config, forgery, named):
    run, _ = run_server(config, fault=forge_replies(forgery, "evaluate"))
    assert run.summary["num-clients"] == len(run.summary["missing"]) == 4
    (reason,) = set(run.summary["missing"].values())
    assert "the reply of node 101 is refused" in reason
    assert re.search(named, reason)


def change_directions(change):
    """A forgery of the sums of weight directions, given them as tensors by name."""

    def forgery(content):
        content["arrays"] = ArrayRecord(change(content["arrays"].to_torch_state_dict()))

    return forgery


@pytest.mark.parametrize(
    ("forgery", "named"),
    [
        (lambda sums: {name: 100 * value for name, value in sums.items()}, "array 0 .* 4 unit vectors"),
        (lambda sums: {name: value * math.nan for name, value in sums.items()}, "array 0 .* 4 unit vectors"),
        (lambda sums: dict(list(sums.items())[1:]), "array 0 body.0.0.weight is missing"),
        (lambda sums: {name: value[1:] for name, value in sums.items()}, "array 0 body.0.0.weight is float64"),
    ],
)
def test_forged_measurements_for_figures_are_refused_by_name(config, forgery, named):
    fault = forge_replies(change_directions(forgery), "evaluate")
    run, _ = run_server(config | {"record": "similarity"}, fault=fault)
    (reason,) = set(run.summary["missing"].values())
    assert "the reply of node 101 is refused" in reason
    assert re.search(named, reason)
    assert run.summary["num-clients"] == 4
    assert all(value <= 1 + 1e-6 for layer in run.similarity.values() for value in layer)
