"""The split into body and head that every algorithm of the paper stands on (Section 3)."""

from typing import ClassVar

from torch import Tensor, nn

ImageShape = tuple[int, int, int]  # channels, height, width


class SplitNetwork(nn.Module):
    """A body that computes features and a head, the last linear layer, that turns them into class scores.

    Subclasses are built from (image_shape, num_classes) and hand both children to this constructor.
    """

    min_size: ClassVar[int]  # smallest height and width, in pixels, that the body can take

    def __init__(self, body: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.body = body
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        """Class scores, float32 [batch, classes], of normalized images, float32 [batch, C, H, W]."""
        return self.head(self.body(images))


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """BatchNorm as in Appendix A.1: no running statistics, so the batch's own are used in evaluation too."""
    return nn.BatchNorm2d(channels, track_running_stats=False)
