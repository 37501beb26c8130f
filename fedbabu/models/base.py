"""The split of a network into body and head, on which every algorithm of the paper is based (Section 3)."""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

ImageShape = tuple[int, int, int]  # channels, height, width


class SplitNetwork(nn.Module, ABC):
    """A network of a body, which computes features, and a head, the last linear layer, which computes class scores."""

    min_size: ClassVar[int]  # height and width in pixels to which smaller images are enlarged

    def __init__(self, image_shape: ImageShape, num_classes: int) -> None:
        super().__init__()
        channels, height, width = image_shape
        scale = max(1, self.min_size / min(height, width))
        self.image_shape = channels, round(height * scale), round(width * scale)  # of the images that the body takes
        self.body, num_features = self.build_body(self.image_shape)
        self.head = nn.Linear(num_features, num_classes)

    @abstractmethod
    def build_body(self, image_shape: ImageShape) -> tuple[nn.Sequential, int]:
        """The body, whose children are its blocks and layers without parameters, and its number of features."""

    @property
    def blocks(self) -> list[nn.Module]:
        """The blocks of the body, from the input on: those of its children that have parameters."""
        return [child for child in self.body.children() if list(child.parameters())]

    def features(self, images: Tensor) -> Tensor:
        """The body's output, float32 [batch, features], for normalized images, float32 [batch, C, H, W]."""
        if images.shape[2:] != self.image_shape[1:]:
            images = F.interpolate(images, self.image_shape[1:], mode="bilinear", align_corners=False)
        return self.body(images)

    def forward(self, images: Tensor) -> Tensor:
        """Class scores, float32 [batch, classes], for normalized images, float32 [batch, C, H, W]."""
        return self.head(self.features(images))


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """BatchNorm as in Appendix A.1: without running statistics, so evaluation too uses those of the batch."""
    return nn.BatchNorm2d(channels, track_running_stats=False)
