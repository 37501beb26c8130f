"""Accuracy without the head: an image belongs to the class with the nearest template (Section 5.2.1).

The template of a class is the mean feature of the client's training images of it. The paper's text compares by cosine
similarity. The authors' code compares by Euclidean distance, augments the training images, and computes their features
in batches that hold one class after the other, so that BatchNorm, which has only the statistics of the batch,
normalizes most of them by a single class. All combinations are measured, because each costs little.
"""

from collections.abc import Callable
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from fedbabu.config.protocols import BATCHES, DISTANCES, IMAGES
from fedbabu.data.transforms import BatchTransform, Examples
from fedbabu.models import SplitNetwork
from fedbabu.training.evaluation import EVALUATION_BATCH_SIZE, accuracy


@torch.no_grad()
def without_head_accuracies(
    model: SplitNetwork,
    train: Examples,
    test_features: Tensor,
    test_labels: Tensor,
    transform: BatchTransform,
    generator: torch.Generator,
) -> dict[str, float]:
    """Accuracy without the head in percent, for each way of `config.TEMPLATES`.

    Args:
        model: The network, whose body computes features.
        train: The client's training examples.
        test_features: The body's features of the client's test images, float32 [n, d].
        test_labels: Their labels, int64 [n].
        transform: Augmentation and normalization.
        generator: A generator on the CPU, which draws the augmentation of the training images.
    """
    model.eval()
    drawn = transform.draw(len(train), generator).to(train.labels.device)
    prepared: dict[str, Callable[[Tensor], Tensor]] = {  # the images of some rows, as the network takes them
        "plain": lambda rows: transform.normalize(train.images[rows]),
        "augmented": lambda rows: transform.augment(train.images[rows], drawn[:, rows]),
    }
    rows, num_batches = torch.arange(len(train), device=drawn.device), -(-len(train) // EVALUATION_BATCH_SIZE)
    batches = {
        "mixed": rows.tensor_split(num_batches),
        "class-by-class": train.labels.argsort(stable=True).split(EVALUATION_BATCH_SIZE),
    }
    accuracies = {}
    for kind_of_images, kind_of_batches in product(IMAGES, BATCHES):
        rows_of_batches = batches[kind_of_batches]
        features = torch.cat([model.features(prepared[kind_of_images](rows)) for rows in rows_of_batches])
        templates = class_templates(features, train.labels[torch.cat(list(rows_of_batches))], model.linear.out_features)
        for distance in DISTANCES:
            way = f"{distance} {kind_of_images} {kind_of_batches}"
            accuracies[way] = accuracy(nearest_template(test_features, templates, distance), test_labels)
    return accuracies


def class_templates(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """The mean feature, [n, d], of each class, float32 [classes, d]; NaN for a class without examples."""
    one_hot = F.one_hot(labels, num_classes).to(features.dtype)
    return one_hot.T @ features / one_hot.sum(dim=0).unsqueeze(1)


def nearest_template(features: Tensor, templates: Tensor, distance: str = "cosine") -> Tensor:
    """The class, int64 [n], whose template, of [classes, d], is nearest to each feature, of [n, d].

    The nearest template has the largest cosine similarity, or the smallest Euclidean distance ("euclidean").
    """
    if distance == "cosine":
        closeness = F.normalize(features) @ F.normalize(templates).T
    else:
        closeness = -torch.cdist(features, templates)
    return closeness.nan_to_num(nan=-torch.inf).argmax(dim=1)
