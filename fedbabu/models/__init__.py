"""Every network that `model-name` accepts: one file and one line here each."""

import torch

from fedbabu.models.base import ImageShape, SplitNetwork
from fedbabu.models.conv_nets import FourConvNet, ThreeConvNet
from fedbabu.models.head_init import HEAD_INITS, mean_row_cosine
from fedbabu.models.mobile_net import MobileNet
from fedbabu.models.res_nets import ResNet10, ResNet18, ResNet50

MODELS: dict[str, type[SplitNetwork]] = {
    network.__name__: network for network in (ThreeConvNet, FourConvNet, MobileNet, ResNet10, ResNet18, ResNet50)
}


def build_model(name: str, image_shape: ImageShape, num_classes: int, seed: int, head_init: str = "he") -> SplitNetwork:
    """A freshly initialized network in channels-last layout; the same seed gives the same parameters.

    Args:
        name: a key of MODELS.
        image_shape: channels, height and width of the images; those too small for the network are enlarged.
        num_classes: width of the head.
        seed: of the initialization; the body's is PyTorch's default, He uniform (Appendix B).
        head_init: a key of HEAD_INITS; whatever it is, the body is the same.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MODELS[name](image_shape, num_classes)
        HEAD_INITS[head_init](model.head.weight)
        return model.to(memory_format=torch.channels_last)


__all__ = ["HEAD_INITS", "MODELS", "ImageShape", "SplitNetwork", "build_model", "mean_row_cosine"]
