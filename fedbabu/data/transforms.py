"""A client's examples as tensors, and the transform of a batch of images into a network's input."""

from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from fedbabu.data.source import ImageArray, IntArray


@dataclass(frozen=True)
class Examples:
    """Images, uint8 [n, C, H, W] in channels-last layout, and labels, int64 [n], on one device."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


def client_examples(images: ImageArray, labels: IntArray, rows: IntArray, device: torch.device) -> Examples:
    """Load the given rows of a split (images uint8 [n, H, W, C], labels int64 [n]) onto a device."""
    pixels = torch.from_numpy(images[rows]).permute(0, 3, 1, 2)
    return Examples(pixels.to(device), torch.from_numpy(labels[rows]).to(device))


@dataclass(frozen=True)
class BatchTransform:
    """Normalization of a whole batch at once and, in training, a random crop and flip of each image."""

    mean: tuple[float, ...]  # of each channel, of pixel values scaled to [0, 1]
    std: tuple[float, ...]  # standard deviation of each channel, of the same values
    crop_padding: int = 4  # zero pixels added on each side before a random crop back to the original size
    flip: bool = True  # whether images are mirrored left to right with probability one half

    def normalize(self, images: Tensor) -> Tensor:
        """Normalize images, uint8 [n, C, H, W], to PyTorch's default dtype, float32, in the same shape."""
        dtype, device = torch.get_default_dtype(), images.device
        mean, std = (_per_channel(tuple(values), dtype, device) for values in (self.mean, self.std))
        return images.to(mean.dtype).mul_(1 / 255).sub_(mean).div_(std).contiguous(memory_format=torch.channels_last)

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw how n images are augmented, int64 [3, n]: vertical offsets, horizontal offsets and flips."""
        offsets = flips = torch.zeros(2, n, dtype=torch.int64)
        if self.crop_padding:
            offsets = torch.randint(2 * self.crop_padding + 1, (2, n), generator=generator)
        if self.flip:
            flips = torch.randint(2, (1, n), generator=generator)
        return torch.cat([offsets, flips[:1]])

    def augment(self, images: Tensor, drawn: Tensor) -> Tensor:
        """Crop, flip and normalize images as drawn, on one device: uint8 [n, C, H, W] to float32 in the same shape."""
        tops, lefts, flips = drawn
        _, _, height, width = images.shape
        if self.crop_padding:
            windows = F.pad(images, [self.crop_padding] * 4).unfold(2, height, 1).unfold(3, width, 1)
            images = windows[torch.arange(len(images), device=images.device), :, tops, lefts]
        if self.flip:
            images = torch.where(flips.bool().view(-1, 1, 1, 1), images.flip(3), images)
        return self.normalize(images)


@cache
def _per_channel(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A tensor [1, C, 1, 1], made once per process, since a copy in every step would make a GPU wait."""
    return torch.tensor(values, dtype=dtype, device=device).view(1, -1, 1, 1)
