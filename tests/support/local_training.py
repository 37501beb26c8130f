"""Local training of one model on random images, without a federation."""

import torch

from fedbabu.algorithms import Part, Phase
from fedbabu.data.transforms import BatchTransform, Examples
from fedbabu.models import SplitNetwork, build_model
from fedbabu.training.local_sgd import LocalTrainingSettings, train

TRANSFORM = BatchTransform((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), crop_padding=2)


def random_examples(num: int, seed: int = 0) -> Examples:
    """Random colour images of 16×16 pixels, of five classes."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (num, 3, 16, 16), generator=generator, dtype=torch.uint8)
    return Examples(images, torch.randint(5, (num,), generator=generator))


def small_model() -> SplitNetwork:
    """A 4convNet for these images."""
    return build_model("FourConvNet", (3, 16, 16), 5, seed=0)


def train_model(
    model: SplitNetwork,
    part: Part = Part.FULL,
    examples: Examples | None = None,
    transform: BatchTransform = TRANSFORM,
    phases: tuple[Phase, ...] = (),
    global_model: SplitNetwork | None = None,
    epochs: int = 2,
    learning_rate: float = 0.1,
    after_epoch: tuple = (),
    **settings,
) -> list[float]:
    """Train a part of a model, or the phases of an algorithm, in batches of eight; returns the losses of the epochs."""
    return train(
        model,
        global_model or model,
        examples or random_examples(20),
        transform,
        phases or (Phase(part),),
        LocalTrainingSettings(**{"batch_size": 8, "momentum": 0.9} | settings),
        torch.Generator().manual_seed(1),
        epochs=epochs,
        learning_rate=learning_rate,
        after_epoch=after_epoch,
    )
