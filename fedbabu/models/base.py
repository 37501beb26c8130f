"""The split into body and head that every algorithm of the paper stands on (Section 3)."""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

ImageShape = tuple[int, int, int]  # channels, height, width


class SplitNetwork(nn.Module, ABC):
    """A body that computes features and a head, the last linear layer, that turns them into class scores.

    A network is a subclass that says how its body is built.
    """

    min_size: ClassVar[int]  # height and width, in pixels, to which smaller images are enlarged

    def __init__(self, image_shape: ImageShape, num_classes: int) -> None:
        super().__init__()
        self.image_shape = enlarged(image_shape, self.min_size)
        self.body, num_features = self.build_body(self.image_shape)
        self.head = nn.Linear(num_features, num_classes)

    @abstractmethod
    def build_body(self, image_shape: ImageShape) -> tuple[nn.Sequential, int]:
        """A body from float32 [batch, C, H, W] to float32 [batch, features], and the number of features.

        Its children are its blocks, in order, and whatever else it needs that has no parameters.
        """

    @property
    def blocks(self) -> list[nn.Module]:
        """The blocks of the body, from the input on: those of its children that have parameters."""
        return [child for child in self.body.children() if any(True for _ in child.parameters())]

    def features(self, images: Tensor) -> Tensor:
        """What the body makes, float32 [batch, features], of normalized images, float32 [batch, C, H, W]."""
        if images.shape[2:] != self.image_shape[1:]:
            images = F.interpolate(images, self.image_shape[1:], mode="bilinear", align_corners=False)
        return self.body(images)

    def forward(self, images: Tensor) -> Tensor:
        """Class scores, float32 [batch, classes], of normalized images, float32 [batch, C, H, W]."""
        return self.head(self.features(images))


def enlarged(image_shape: ImageShape, min_size: int) -> ImageShape:
    """The shape of an image whose shorter side has at least min_size pixels, in the same proportions."""
    channels, height, width = image_shape
    scale = max(1, min_size / min(height, width))
    return channels, round(height * scale), round(width * scale)


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """BatchNorm as in Appendix A.1: no running statistics, so the batch's own are used in evaluation too."""
    return nn.BatchNorm2d(channels, track_running_stats=False)
