"""ResNets for 32×32 images, which the paper trains on CIFAR-100 (Appendices G and H; He et al., 2016)."""

from typing import ClassVar

from torch import nn

from fedbabu.models.base import ImageShape, SplitNetwork, batch_norm


class _ResNet(SplitNetwork):
    """torchvision's ResNet with the stem that small images need: a 3×3 convolution of stride 1, no max-pooling."""

    min_size = 32
    block: ClassVar[str] = "BasicBlock"  # of torchvision, which takes a second to import
    layers: ClassVar[list[int]]  # residual blocks of each width

    def build_body(self, image_shape: ImageShape) -> tuple[nn.Sequential, int]:
        """The stem and the residual blocks; any image ends as 512 features, or 2048 with bottlenecks."""
        from torchvision.models import resnet

        net = resnet.ResNet(getattr(resnet, self.block), self.layers, norm_layer=batch_norm)
        net.conv1 = nn.Conv2d(image_shape[0], 64, kernel_size=3, padding=1, bias=False)
        for module in net.modules():
            if isinstance(module, nn.Conv2d):
                module.reset_parameters()  # PyTorch's default, as in the paper, instead of torchvision's
        stem = nn.Sequential(net.conv1, net.bn1, net.relu)
        blocks = [block for layer in (net.layer1, net.layer2, net.layer3, net.layer4) for block in layer]
        return nn.Sequential(stem, *blocks, net.avgpool, nn.Flatten()), net.fc.in_features


class ResNet10(_ResNet):
    """One residual block of each width."""

    layers: ClassVar = [1, 1, 1, 1]


class ResNet18(_ResNet):
    """Two residual blocks of each width."""

    layers: ClassVar = [2, 2, 2, 2]


class ResNet50(_ResNet):
    """Three, four, six and three bottleneck blocks."""

    block = "Bottleneck"
    layers: ClassVar = [3, 4, 6, 3]
