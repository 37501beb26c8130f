"""The record of a round: which keys its JSON has, and in which order."""

import json

import pytest

from fedbabu.federation.clients import ClientInfo
from fedbabu.runs.records import RoundRecord, client_record
from fedbabu.training.evaluation import ClientResult

# Lines of rounds.jsonl as version 1.0 wrote them.
WITHOUT_EVALUATION = (
    '{"round": 1, "failed": {"3": "loss not finite"}, "attempts": 2, '
    '"learning-rate": 0.1, "clients": [2, 7], "num-examples": 144, "train-loss": 1.5, "train-seconds": 0.5, '
    '"seconds": 0.75, "evaluate-seconds": 0.25}'
)
WITH_EVERYTHING = (
    '{"round": 2, "failed": {}, "attempts": 1, "learning-rate": 0.01, '
    '"clients": [2, 7], "in-class": [10.0, 20.0], "out-of-class": [null, null], "num-examples": 144, '
    '"train-loss": 1.5, "server-loss": 0.5, "train-seconds": 0.5, "test-accuracy": 12.5, "initial-accuracy": 25.0, '
    '"missing": {"0": "it never trained"}, "seconds": 0.75, "evaluate-seconds": 0.25}'
)
IN_THE_MIDDLE = (
    '{"round": 3, "failed": {}, "attempts": 1, "learning-rate": 0.01, '
    '"clients": [], "num-examples": 0, "server-loss": 0.5, "train-seconds": 0.5}'
)


@pytest.mark.parametrize("line", [WITHOUT_EVALUATION, WITH_EVERYTHING, IN_THE_MIDDLE])
def test_a_record_is_written_as_it_was_read(line):
    assert json.dumps(RoundRecord.from_json(json.loads(line)).to_json()) == line


def test_client_ids_are_integers():
    assert RoundRecord.from_json(json.loads(WITHOUT_EVALUATION)).failed == {3: "loss not finite"}
    assert RoundRecord.from_json(json.loads(WITH_EVERYTHING)).missing == {0: "it never trained"}


def test_what_does_not_apply_to_a_round_is_none():
    record = RoundRecord.from_json(json.loads(WITHOUT_EVALUATION))
    assert (record.initial_accuracy, record.missing, record.server_loss, record.in_class) == (None,) * 4
    unfinished = RoundRecord(round=3)
    assert (unfinished.seconds, unfinished.evaluate_seconds) == (None, None)
    assert "seconds" not in unfinished.to_json()


def test_unknown_keys_are_ignored():
    assert RoundRecord.from_json({"round": 3, "from-the-future": 1}) == RoundRecord(round=3)


def test_a_client_has_accuracies_by_distribution_only_if_they_were_measured():
    info = ClientInfo(num_train=72, num_test=15, classes=(1, 8))
    measured = {"accuracy": [50.0, 75.0], "loss": [0.7, 0.6], "without_head_accuracy": {"cosine plain mixed": 60.0}}
    record = client_record(4, info, ClientResult(**measured))
    assert list(record) == [
        "client", "num-train-examples", "num-test-examples", "classes", "accuracy", "loss", "without-head-accuracy",
    ]  # fmt: skip
    nan = float("nan")
    result = ClientResult(**measured, id_accuracy=[80.0, 90.0], ood_accuracy=[nan, nan])
    by_distribution = {"id-accuracy": [80.0, 90.0], "ood-accuracy": [None, None]}
    assert client_record(4, info, result) == {**record, **by_distribution}
