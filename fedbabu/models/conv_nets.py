"""The paper's 3convNet, for EMNIST, and 4convNet, for CIFAR-10 (Appendix A.1)."""

from typing import ClassVar

from torch import nn

from fedbabu.models.base import ImageShape, SplitNetwork, batch_norm

WIDTH = 64


class _ConvNet(SplitNetwork):
    """Blocks of 3×3 convolution (64 channels), BatchNorm, 2×2 max-pooling and ReLU, then a linear head."""

    num_blocks: ClassVar[int]

    def build_body(self, image_shape: ImageShape) -> tuple[nn.Sequential, int]:
        """The blocks; each halves height and width, rounding down."""
        channels, height, width = image_shape
        blocks = [_block(channels if index == 0 else WIDTH) for index in range(self.num_blocks)]
        return nn.Sequential(*blocks, nn.Flatten()), WIDTH * (height >> self.num_blocks) * (width >> self.num_blocks)


class ThreeConvNet(_ConvNet):
    """3convNet: three blocks; a 28×28 image ends as 576 features."""

    num_blocks = 3
    min_size = 8


class FourConvNet(_ConvNet):
    """4convNet: four blocks; a 32×32 image ends as 256 features."""

    num_blocks = 4
    min_size = 16


def _block(channels: int) -> nn.Sequential:
    # The paper pools after the ReLU. Both orders give the same numbers, since ReLU is monotone;
    # this one rectifies a quarter of the values.
    return nn.Sequential(
        nn.Conv2d(channels, WIDTH, kernel_size=3, padding=1),
        batch_norm(WIDTH),
        nn.MaxPool2d(2),
        nn.ReLU(inplace=True),
    )
