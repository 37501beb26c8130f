"""The split of a network into body and head, on which every algorithm of the paper is based (Section 3).

The paper's head is the last linear layer. With head_blocks, the last blocks before it belong to the head too, as FedPer
has it (K_P, the number of personalization layers).
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ImageShape = tuple[int, int, int]  # channels, height, width


class SplitNetwork(nn.Module, ABC):
    """A network of a body, which computes features, and a head, which computes class scores."""

    title: ClassVar[str] = ""  # what figures call it; empty for the name of the class
    min_size: ClassVar[int]  # height and width in pixels to which smaller images are enlarged

    def __init__(self, image_shape: ImageShape, num_classes: int, head_blocks: int = 0) -> None:
        super().__init__()
        channels, height, width = image_shape
        scale = max(1, self.min_size / min(height, width))
        self.image_shape = channels, round(height * scale), round(width * scale)  # of the images that the body takes
        body, num_features = self.build_body(self.image_shape)
        linear = nn.Linear(num_features, num_classes)
        self.body: nn.Sequential = body
        self.head: nn.Sequential | nn.Linear = linear
        if head_blocks:
            self.body, self.head = _split(body, linear, head_blocks, self.image_shape)

    @property
    def linear(self) -> nn.Linear:
        """The last layer of the head: the whole head, if no blocks belong to it."""
        linear = self.head if isinstance(self.head, nn.Linear) else self.head[-1]
        assert isinstance(linear, nn.Linear)
        return linear

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


def _split(
    body: nn.Sequential, linear: nn.Linear, head_blocks: int, image_shape: ImageShape
) -> tuple[nn.Sequential, nn.Sequential]:
    """Move the last blocks of a body, and the layers after them, to the head; features are flat in between.

    A ValueError is raised if the body has too few blocks, since at least one must stay.
    """
    layers = list(body.children())
    blocks = [place for place, layer in enumerate(layers) if list(layer.parameters())]
    if head_blocks >= len(blocks):
        most = len(blocks) - 1
        raise ValueError(f"its body has {len(blocks)} blocks, of which at most {most} can belong to the head.")
    first = blocks[-head_blocks]
    trunk = nn.Sequential(*layers[:first])
    with torch.no_grad():
        shape = trunk.eval()(torch.zeros(2, *image_shape)).shape[1:]  # two images, because of BatchNorm
    return nn.Sequential(*layers[:first], nn.Flatten()), nn.Sequential(nn.Unflatten(1, shape), *layers[first:], linear)


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """BatchNorm as in Appendix A.1: without running statistics, so evaluation too uses those of the batch."""
    return nn.BatchNorm2d(channels, track_running_stats=False)


class BatchNormWithRunningStatistics(nn.BatchNorm2d):
    """BatchNorm of the ResNets that the paper cites: evaluation uses running averages, which are shared like weights.

    It does not count its batches, which would be an integer among the weights and only matters for other averages.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.num_batches_tracked = None

    def _load_from_state_dict(self, *arguments: Any) -> None:
        nn.Module._load_from_state_dict(self, *arguments)  # PyTorch's own method asks for the number of batches
