"""A client's examples as tensors, and the transforms that turn a batch of them into a network's input."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Examples:
    """Images, uint8 [n, C, H, W] in channels-last layout, and labels, int64 [n], on one device."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


def client_examples(
    images: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int64],
    rows: npt.NDArray[np.int64],
    device: torch.device,
) -> Examples:
    """The given rows of a split (images uint8 [n, H, W, C], labels int64 [n]) as tensors on a device."""
    return Examples(
        torch.from_numpy(images[rows]).permute(0, 3, 1, 2).to(device), torch.from_numpy(labels[rows]).to(device)
    )


@dataclass(frozen=True)
class BatchTransform:
    """Normalization of a whole batch at once and, in training, a random crop and flip of each image.

    Attributes:
        mean, std: per channel, of pixel values scaled to [0, 1].
        crop_padding: zero pixels added on every side before a crop back to the original size.
        flip: whether images are mirrored left to right with probability one half.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_padding: int = 4
    flip: bool = True

    def normalize(self, images: Tensor) -> Tensor:
        """uint8 [n, C, H, W] to PyTorch's default dtype, float32, in the same shape."""
        mean, std = (torch.tensor(v, device=images.device).view(1, -1, 1, 1) for v in (self.mean, self.std))
        return images.to(mean.dtype).mul_(1 / 255).sub_(mean).div_(std).contiguous(memory_format=torch.channels_last)

    def augment(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Crop, flip and normalize: uint8 [n, C, H, W] to float32 in the same shape.

        The generator is the CPU's; it draws row offsets, column offsets and flips, n of each.
        """
        n, _, height, width = images.shape
        if self.crop_padding:
            offsets = torch.randint(2 * self.crop_padding + 1, (2, n), generator=generator).to(images.device)
            windows = F.pad(images, [self.crop_padding] * 4).unfold(2, height, 1).unfold(3, width, 1)
            images = windows[torch.arange(n, device=images.device), :, offsets[0], offsets[1]]
        if self.flip:
            mirrored = torch.randint(2, (n, 1, 1, 1), generator=generator).bool().to(images.device)
            images = torch.where(mirrored, images.flip(3), images)
        return self.normalize(images)
