"""4convNet, the paper's network for CIFAR-10 (Appendix A.1)."""

from torch import nn

from fedbabu.models.base import ImageShape, SplitNetwork, batch_norm

WIDTH = 64


class FourConvNet(SplitNetwork):
    """Four blocks of 3×3 convolution (64 channels), BatchNorm, 2×2 max-pooling and ReLU, then a linear head."""

    min_size = 16

    def build_body(self, image_shape: ImageShape) -> tuple[nn.Module, int]:
        """The four blocks; a 32×32 image ends as 256 features."""
        channels, height, width = image_shape
        blocks = [_block(channels if index == 0 else WIDTH) for index in range(4)]
        return nn.Sequential(*blocks, nn.Flatten()), WIDTH * (height // 16) * (width // 16)


def _block(channels: int) -> nn.Sequential:
    # The paper pools after the ReLU. Both orders give the same numbers, since ReLU is monotone;
    # this one rectifies a quarter of the values.
    return nn.Sequential(
        nn.Conv2d(channels, WIDTH, kernel_size=3, padding=1),
        batch_norm(WIDTH),
        nn.MaxPool2d(2),
        nn.ReLU(inplace=True),
    )
