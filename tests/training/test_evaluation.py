"""A client's evaluation: its batches, and accuracy in and out of its distribution."""

import numpy as np
import pytest
import torch
from support import reference
from support.in_process import run_server
from support.local_training import TRANSFORM, random_examples, small_model, train_model
from support.reference_runs import clients_data, reference_settings

from fedbabu.training.evaluation import ClientEvaluation, features


@pytest.fixture
def model():
    return small_model()


def test_up_to_128_images_are_evaluated_in_one_batch(model):
    """BatchNorm uses the statistics of a batch, so the batches are part of the definition of the accuracy."""
    data = random_examples(128)
    with torch.no_grad():
        torch.testing.assert_close(features(model, data, TRANSFORM), model.features(TRANSFORM.normalize(data.images)))
    data = random_examples(129)
    with torch.no_grad():
        halves = [model.features(TRANSFORM.normalize(data.images[part])) for part in (slice(65), slice(65, None))]
    torch.testing.assert_close(features(model, data, TRANSFORM), torch.cat(halves))


def test_fine_tuning_is_measured_before_and_after_every_epoch(model):
    train, test = random_examples(20), random_examples(30, seed=1)
    untrained = ClientEvaluation(model, test, TRANSFORM)
    untrained.measure()
    evaluation = ClientEvaluation(model, test, TRANSFORM)
    evaluation.measure()
    train_model(model, examples=train, epochs=3, learning_rate=0.05, after_epoch=(evaluation.measure,))
    fine_tuned = ClientEvaluation(model, test, TRANSFORM)
    fine_tuned.measure()
    result = evaluation.result
    assert len(result.accuracy) == len(result.loss) == 4
    assert (result.accuracy[0], result.loss[0]) == (untrained.result.accuracy[0], untrained.result.loss[0])
    assert (result.accuracy[-1], result.loss[-1]) == (fine_tuned.result.accuracy[0], fine_tuned.result.loss[0])


def test_in_and_out_of_distribution_accuracy_are_those_of_the_reference(tiny_config, float64):
    """Table 20: every client is tested on all classes, and its accuracy is split by the classes that it trains on."""
    config = tiny_config | {"iid-test-set": True, "num-server-rounds": 1, "num-local-epochs": 1}
    run, _ = run_server(config)
    clients, settings = clients_data(config), reference_settings(config)
    counts = [np.bincount(y, minlength=10) for _, (_, y) in clients.values()]
    assert np.ptp(counts, axis=0).max() <= 1
    assert np.ptp(np.sum(counts, axis=1)) <= 1
    means = {"id": [], "ood": []}
    for record in run.clients:
        (x, y), (x_test, y_test) = clients[record["client"]]
        client = reference.Client(x, y, settings, 7, reference.FINE_TUNING, 1, record["client"])
        tuned = client.sgd(run.model(), reference.everything, epochs=2)
        # The batch stays whole, because BatchNorm uses its statistics.
        correct = reference.network(tuned, settings.pixels.plain(x_test)).argmax(1) == y_test
        for kind, values in means.items():
            chosen = torch.tensor([(label in y) == (kind == "id") for label in y_test])
            values.append(100 * correct[chosen].double().mean().item())
            assert len(record[f"{kind}-accuracy"]) == 3
            assert record[f"{kind}-accuracy"][-1] == pytest.approx(values[-1])
    for kind, values in means.items():
        assert run.summary["accuracy"][f"{kind}-personalized"]["mean"] == pytest.approx(np.mean(values))
        assert f"{kind}-initial" in run.summary["accuracy"]


def test_without_classes_out_of_distribution_there_is_no_such_accuracy(tiny_config):
    keys = {"iid-test-set": True, "shards-per-client": 10, "num-clients": 1, "num-server-rounds": 1}
    run, _ = run_server(tiny_config | keys, figures=True)
    assert run.clients[0]["ood-accuracy"] == [None, None, None]
    assert "ood-personalized" not in run.summary["accuracy"]
    assert run.summary["accuracy"]["id-personalized"] == run.summary["accuracy"]["personalized"]


def test_a_mean_over_some_of_the_clients_is_reported_as_such(run_config, capsys):
    """Only some of these clients have test images of classes that they do not train on."""
    keys = {"iid-test-set": True, "partition": "dirichlet", "num-clients": 6, "num-server-rounds": 1}
    run, _ = run_server(run_config | keys | {"num-local-epochs": 1, "num-finetune-epochs": 0})
    accuracy = run.summary["accuracy"]
    number = accuracy["ood-initial"]["num-clients"]
    assert number == sum(record["ood-accuracy"][0] is not None for record in run.clients) < 6
    assert accuracy["personalized"]["num-clients"] == 6
    assert f"{number} of 6 clients" in capsys.readouterr().out
