"""Messages are Flower's records, and nothing in them or in files is executed."""

import math
import re

from flwr.app import ArrayRecord, ConfigRecord, MetricRecord
from support import PROJECT
from support.in_process import run_server

from fedbabu.config import RunConfig, with_protocol
from fedbabu.federation.messages import EvaluateReply, TrainReply, TrainResult
from fedbabu.training.evaluation import ClientResult


def test_messages_consist_of_flowers_records_and_carry_the_run_config(tiny_config):
    config = tiny_config | {"num-server-rounds": 1}
    _, grid = run_server(config)
    assert {message.metadata.message_type for message, _ in grid.exchanges} == {"query", "train", "evaluate"}
    for message, reply in grid.exchanges:
        for record in [*message.content.values(), *reply.content.values()]:
            assert isinstance(record, ArrayRecord | ConfigRecord | MetricRecord)
        assert RunConfig.from_flower(message.content["run-config"]).to_flower() == with_protocol(config)


def test_a_train_reply_is_what_flowers_fedavg_can_aggregate(tiny_config):
    """One ArrayRecord, and one MetricRecord with the number of examples."""
    _, grid = run_server(tiny_config | {"num-server-rounds": 1, "num-finetune-epochs": 0})
    for _, reply in grid.of_type("train"):
        (metrics,) = reply.content.metric_records.values()
        assert metrics["num-examples"] > 0
        assert len(reply.content.array_records) == 1


def test_replies_carry_every_number_exactly():
    """NaN too, which stands for a client without such test images."""
    numbers = [0.1, 100 / 3, 1e-300, 5e-324]
    trained = TrainReply(results={3: TrainResult(loss=numbers[1], in_class=numbers, out_of_class=[math.nan])})
    (result,) = TrainReply.from_content(trained.to_content()).results.values()
    assert (result.loss, result.in_class) == (numbers[1], numbers)
    assert math.isnan(result.out_of_class[0])
    evaluated = EvaluateReply(results={3: ClientResult(accuracy=numbers, loss=numbers, ood_accuracy=[math.nan])})
    (result,) = EvaluateReply.from_content(evaluated.to_content()).results.values()
    assert (result.accuracy, result.loss) == (numbers, numbers)
    assert math.isnan(result.ood_accuracy[0])


def test_nothing_is_unpickled_or_executed():
    """Models and states are safetensors; everything else is JSON, TOML, NumPy arrays or Flower's records."""
    forbidden = re.compile(r"pickle|torch\.(load|save)\b|marshal|shelve|joblib|dill\b|\beval\(|\bexec\(|weights_only")
    for path in (PROJECT / "fedbabu").rglob("*.py"):
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if forbidden.search(line)]
        assert [line for line in lines if ".eval()" not in line] == [], path
