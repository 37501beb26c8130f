"""MobileNet v1 for 32×32 images, the paper's network for CIFAR-100 (Appendix A.1; Howard et al., 2017)."""

from torch import nn

from fedbabu.models.base import ImageShape, SplitNetwork, batch_norm

# Output channels and stride of the thirteen depthwise separable blocks (Howard et al., 2017, Table 1).
BLOCKS = [
    (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2),
    (512, 1), (512, 1), (512, 1), (512, 1), (512, 1), (1024, 2), (1024, 1),
]  # fmt: skip


class MobileNet(SplitNetwork):
    """MobileNet v1 with a stride-1 stem, as small images need; a 32×32 image ends as a 2×2 map, averaged."""

    min_size = 32

    def build_body(self, image_shape: ImageShape) -> tuple[nn.Sequential, int]:
        """The stem and the thirteen blocks; any image ends as 1024 features."""
        blocks = [
            nn.Sequential(
                nn.Conv2d(image_shape[0], 32, kernel_size=3, padding=1, bias=False),
                batch_norm(32),
                nn.ReLU(inplace=True),
            )
        ]
        channels = 32
        for out_channels, stride in BLOCKS:
            blocks.append(_depthwise_separable(channels, out_channels, stride))
            channels = out_channels
        return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten()), channels


def _depthwise_separable(channels: int, out_channels: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, stride=stride, padding=1, groups=channels, bias=False),
        batch_norm(channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels, out_channels, kernel_size=1, bias=False),
        batch_norm(out_channels),
        nn.ReLU(inplace=True),
    )
