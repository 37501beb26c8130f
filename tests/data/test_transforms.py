"""A client's tensors, and the augmentation and normalization of a batch."""

import numpy as np
import torch
from torchvision.transforms import functional as tvf

from fedbabu.data.dataset import open_dataset
from fedbabu.data.source import DataSpec
from fedbabu.data.transforms import BatchTransform, client_examples

RNG = np.random.default_rng(0)


def test_augmentation_is_torchvisions_crop_and_flip_of_each_image():
    transform = BatchTransform((0.5, 0.4, 0.3), (0.2, 0.3, 0.4), crop_padding=4, flip=True)
    images = torch.from_numpy(RNG.integers(0, 256, (64, 3, 32, 24), dtype=np.uint8))
    augmented = transform.augment(images, transform.draw(64, torch.Generator().manual_seed(5)))
    generator = torch.Generator().manual_seed(5)
    offsets = torch.randint(9, (2, 64), generator=generator)
    flips = torch.randint(2, (64, 1, 1, 1), generator=generator)
    for index, image in enumerate(images):
        padded = tvf.pad(image, [4])
        expected = tvf.crop(padded, int(offsets[0, index]), int(offsets[1, index]), 32, 24)
        expected = tvf.hflip(expected) if flips[index] else expected
        expected = tvf.normalize(expected / 255, transform.mean, transform.std)
        torch.testing.assert_close(augmented[index], expected)
    assert set(flips.flatten().tolist()) == {0, 1}
    assert set(offsets.flatten().tolist()) == set(range(9))
    assert augmented.is_contiguous(memory_format=torch.channels_last)


def test_without_augmentation_images_are_only_normalized():
    transform = BatchTransform((0.5,), (0.5,), crop_padding=0, flip=False)
    images = torch.from_numpy(RNG.integers(0, 256, (8, 1, 16, 16), dtype=np.uint8))
    torch.testing.assert_close(transform.augment(images, transform.draw(8, torch.Generator())), images / 127.5 - 1)


def test_the_examples_of_a_client_are_the_given_rows_in_order():
    dataset = open_dataset(DataSpec("digits"))
    rows = np.array([7, 3, 11])
    examples = client_examples(dataset.images["train"], dataset.labels["train"], rows, torch.device("cpu"))
    assert examples.images.shape == (3, 1, 16, 16)
    assert np.array_equal(examples.images[1, 0], dataset.images["train"][3, :, :, 0])
    assert examples.labels.tolist() == dataset.labels["train"][rows].tolist()
