"""Extra measurements for figures: class accuracies, and the similarity of the clients' layers."""

from itertools import combinations

import pytest
import torch
import torch.nn.functional as F
from support.local_training import TRANSFORM, random_examples, small_model, train_model

from fedbabu.data.transforms import Examples
from fedbabu.training.aggregation import weighted_sum
from fedbabu.training.diagnostics import ClassAccuracyCurve, WeightDirections, layer_similarity, mean_over_clients
from fedbabu.training.evaluation import ClientEvaluation


def of_classes(examples, classes):
    """The examples of some classes."""
    chosen = torch.isin(examples.labels, torch.tensor(classes))
    return Examples(examples.images[chosen], examples.labels[chosen])


def test_class_accuracy_is_split_by_the_classes_that_the_client_trains_on():
    model, test = small_model(), random_examples(40, seed=1)
    curve = ClassAccuracyCurve(model, of_classes(random_examples(40), [0, 2]), test, TRANSFORM)
    curve.measure()
    train_model(model, after_epoch=(curve.measure,))
    assert len(curve.in_class) == len(curve.out_of_class) == 3
    whole = ClientEvaluation(model, test, TRANSFORM)
    whole.measure()
    num_in, num_out = len(of_classes(test, [0, 2])), len(of_classes(test, [1, 3, 4]))
    correct = curve.in_class[-1] * num_in + curve.out_of_class[-1] * num_out
    assert correct / 40 == pytest.approx(whole.result.accuracy[0])


def test_without_images_of_other_classes_the_accuracy_on_them_is_nan():
    curve = ClassAccuracyCurve(small_model(), random_examples(40), random_examples(40, seed=1), TRANSFORM)
    curve.measure()
    assert torch.tensor(curve.out_of_class).isnan().tolist() == [True]


def test_the_mean_over_clients_leaves_out_those_without_such_images():
    nan = float("nan")
    assert mean_over_clients([[10.0, nan, nan], [30.0, 50.0, nan]]) == [20.0, 50.0, None]


def test_the_similarity_of_a_layer_is_the_mean_cosine_of_all_pairs_of_clients():
    models = [small_model() for _ in range(4)]
    directions = []
    for client, model in enumerate(models):
        weights = WeightDirections(model)
        weights.note()
        train_model(model, examples=random_examples(20, seed=client), epochs=1, after_epoch=(weights.note,))
        directions.append(weights.directions)
    similarity = layer_similarity(weighted_sum((each, 1) for each in directions), num_clients=4)
    names = [name for name, value in models[0].named_parameters() if value.dim() > 1]
    assert sorted(similarity) == sorted(names)
    for name in names:
        flat = [model.get_parameter(name).detach().double().flatten() for model in models]
        cosines = [F.cosine_similarity(one, two, dim=0).item() for one, two in combinations(flat, 2)]
        assert similarity[name] == pytest.approx([1.0, sum(cosines) / len(cosines)], abs=1e-6)
