"""The paper's networks: 3convNet for EMNIST, 4convNet for CIFAR-10, MobileNet and ResNets for CIFAR-100."""

from typing import ClassVar

from torch import nn

from fedbabu.models.base import BatchNormWithRunningStatistics, ImageShape, SplitNetwork, batch_norm

CONV_NET_WIDTH = 64  # channels
# Output channels and stride of the thirteen depthwise separable blocks (Howard et al., 2017, Table 1).
MOBILE_NET_BLOCKS = [
    (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2),
    (512, 1), (512, 1), (512, 1), (512, 1), (512, 1), (1024, 2), (1024, 1),
]  # fmt: skip


class _ConvNet(SplitNetwork):
    """Blocks of 3×3 convolution, BatchNorm, 2×2 max-pooling and ReLU, and a linear head (Appendix A.1)."""

    num_blocks: ClassVar[int]

    def build_body(self, image_shape: ImageShape) -> tuple[nn.Sequential, int]:
        """The blocks, each of which halves height and width, rounded down."""
        channels, height, width = image_shape
        blocks = []
        for _ in range(self.num_blocks):
            # The paper pools after the ReLU. Both orders give the same numbers, since ReLU is monotone;
            # this one rectifies a quarter of the values.
            convolution = nn.Conv2d(channels, CONV_NET_WIDTH, kernel_size=3, padding=1)
            normalization = batch_norm(CONV_NET_WIDTH)
            blocks.append(nn.Sequential(convolution, normalization, nn.MaxPool2d(2), nn.ReLU(inplace=True)))
            channels, height, width = CONV_NET_WIDTH, height // 2, width // 2
        return nn.Sequential(*blocks, nn.Flatten()), channels * height * width


class ThreeConvNet(_ConvNet):
    """3convNet: three blocks; a 28×28 image ends as 576 features."""

    title = "3convNet"
    num_blocks = 3
    min_size = 8


class FourConvNet(_ConvNet):
    """4convNet: four blocks; a 32×32 image ends as 256 features."""

    title = "4convNet"
    num_blocks = 4
    min_size = 16


class MobileNet(SplitNetwork):
    """MobileNet v1 for small images, with a first convolution of stride 1 (Appendix A.1; Howard et al., 2017)."""

    min_size = 32

    def build_body(self, image_shape: ImageShape) -> tuple[nn.Sequential, int]:
        """The first convolution and the thirteen blocks; any image ends as 1024 features, averages of 2×2 for 32×32."""
        channels = 32
        blocks = [nn.Sequential(*_convolution(image_shape[0], channels, 3))]
        for out_channels, stride in MOBILE_NET_BLOCKS:
            depthwise = _convolution(channels, channels, 3, stride, groups=channels)
            blocks.append(nn.Sequential(*depthwise, *_convolution(channels, out_channels, 1)))
            channels = out_channels
        return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten()), channels


def _convolution(channels: int, out_channels: int, size: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """A convolution without bias that leaves the image size as it is at stride 1, BatchNorm and ReLU."""
    convolution = nn.Conv2d(channels, out_channels, size, stride, padding=size // 2, groups=groups, bias=False)
    return [convolution, batch_norm(out_channels), nn.ReLU(inplace=True)]


class _ResNet(SplitNetwork):
    """torchvision's ResNet (He et al., 2016), but with a first convolution of 3×3 and stride 1, and no max-pooling.

    Like those of the authors' code and of the implementation that the paper cites, it has running statistics.
    """

    min_size = 32
    block: ClassVar[str] = "BasicBlock"  # its name in torchvision, which takes a second to import
    layers: ClassVar[list[int]]  # residual blocks of each width

    def build_body(self, image_shape: ImageShape) -> tuple[nn.Sequential, int]:
        """The first convolution and the residual blocks; any image ends as 512 features, or 2048 with bottlenecks."""
        from torchvision.models import resnet

        net = resnet.ResNet(getattr(resnet, self.block), self.layers, norm_layer=BatchNormWithRunningStatistics)
        net.conv1 = nn.Conv2d(image_shape[0], 64, kernel_size=3, padding=1, bias=False)
        for module in net.modules():
            if isinstance(module, nn.Conv2d):
                module.reset_parameters()  # PyTorch's default, as in the paper, instead of torchvision's
        stem = nn.Sequential(net.conv1, net.bn1, net.relu)
        blocks = [*net.layer1, *net.layer2, *net.layer3, *net.layer4]
        return nn.Sequential(stem, *blocks, net.avgpool, nn.Flatten()), net.fc.in_features


class ResNet10(_ResNet):
    """ResNet with one residual block of each width (Appendix H)."""

    layers: ClassVar = [1, 1, 1, 1]


class ResNet18(_ResNet):
    """ResNet with two residual blocks of each width (Appendix G)."""

    layers: ClassVar = [2, 2, 2, 2]


class ResNet50(_ResNet):
    """ResNet with three, four, six and three bottleneck blocks (Appendix G)."""

    block = "Bottleneck"
    layers: ClassVar = [3, 4, 6, 3]
