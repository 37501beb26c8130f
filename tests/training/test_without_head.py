"""Accuracy without the head: the templates of the classes, and the two distances from them."""

import pytest
import torch
from support import reference
from support.local_training import TRANSFORM, random_examples, small_model

from fedbabu.config import TEMPLATES
from fedbabu.data.transforms import Examples
from fedbabu.training.evaluation import features
from fedbabu.training.without_head import class_templates, nearest_template, without_head_accuracies


@pytest.fixture
def model():
    return small_model()


def accuracies(model, train, test):
    generator = torch.Generator().manual_seed(3)
    return without_head_accuracies(model, train, features(model, test, TRANSFORM), test.labels, TRANSFORM, generator)


def test_templates_are_the_mean_features_of_the_classes():
    train_features = torch.tensor([[2.0, 0.0], [4.0, 0.0], [0.0, 1.0]])
    templates = class_templates(train_features, torch.tensor([0, 0, 2]), num_classes=3)
    torch.testing.assert_close(templates[[0, 2]], torch.tensor([[3.0, 0.0], [0.0, 1.0]]))
    assert templates[1].isnan().all()


def test_the_nearest_template_has_the_largest_cosine_or_the_smallest_distance():
    """The first feature has the larger cosine with template 0, but is nearer to template 2; class 1 has no template."""
    templates = torch.tensor([[3.0, 0.0], [torch.nan, torch.nan], [0.0, 1.0]])
    test_features = torch.tensor([[0.4, 0.3], [0.1, 9.0], [-1.0, -1.1]])
    assert nearest_template(test_features, templates).tolist() == [0, 2, 0]
    assert nearest_template(test_features, templates, "euclidean").tolist() == [2, 2, 2]


def test_every_way_is_measured_and_only_augmentation_is_random(model):
    train, test = random_examples(300), random_examples(200, seed=1)
    measured = accuracies(model, train, test)
    assert set(measured) == set(TEMPLATES)
    assert measured == accuracies(model, train, test)


def test_a_batch_of_one_class_is_what_makes_class_by_class_templates_differ(model):
    """Up to 128 images are one batch in any order; of 256, the sorted ones are two batches of one class each."""
    labels = torch.arange(256) % 2
    brightness = torch.where(labels.bool(), 160, 0).view(-1, 1, 1, 1)
    images = (random_examples(256).images.int() % 96 + brightness).to(torch.uint8)
    train, test = Examples(images, labels), Examples(images[:100], labels[:100])

    small = Examples(train.images[:128], train.labels[:128])
    one_batch = accuracies(model, small, test)
    assert one_batch["cosine plain class-by-class"] == one_batch["cosine plain mixed"]

    def classes_distance(rows_of_batches):
        """How far the templates of the two classes are from each other, in units of their length."""
        z = torch.cat([model.features(TRANSFORM.normalize(images[rows])) for rows in rows_of_batches])
        first, second = class_templates(z, labels[torch.cat(list(rows_of_batches))], 10)[:2]
        return ((first - second).norm() / first.norm()).item()

    with torch.no_grad():
        mixed = classes_distance(torch.arange(256).split(128))
        class_by_class = classes_distance(labels.argsort(stable=True).split(128))
    assert class_by_class < mixed / 2  # each class is normalized to the same mean: what told them apart is gone
    measured = accuracies(model, train, test)
    assert measured["cosine plain class-by-class"] < measured["cosine plain mixed"]


def test_batches_and_images_are_those_of_the_reference(model):
    """More images than two batches of 128 hold, which the clients of the other comparisons do not have."""
    train, test = random_examples(300), random_examples(100, seed=1)
    pixels = reference.Pixels(TRANSFORM.mean, TRANSFORM.std, TRANSFORM.crop_padding, TRANSFORM.flip)
    theta = {name: value.detach() for name, value in model.state_dict().items()}
    expected = reference.accuracies_without_head(
        theta,
        (train.images, train.labels),
        (pixels.plain(test.images), test.labels),
        pixels,
        torch.Generator().manual_seed(3),
    )
    assert accuracies(model, train, test) == pytest.approx(expected, abs=1.01)  # an image on the border between two
