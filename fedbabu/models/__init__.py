"""Every network that `model-name` accepts: one file and one line here each."""

import torch

from fedbabu.errors import ConfigError
from fedbabu.models.base import ImageShape, SplitNetwork
from fedbabu.models.four_conv_net import FourConvNet
from fedbabu.models.head_init import HEAD_INITS
from fedbabu.models.mobile_net import MobileNet

MODELS: dict[str, type[SplitNetwork]] = {"FourConvNet": FourConvNet, "MobileNet": MobileNet}


def build_model(name: str, image_shape: ImageShape, num_classes: int, seed: int, head_init: str = "he") -> SplitNetwork:
    """A freshly initialized network in channels-last layout; the same seed gives the same parameters.

    Args:
        name: a key of MODELS.
        image_shape: channels, height and width of the input.
        num_classes: width of the head.
        seed: of the initialization; the body's is PyTorch's default, He uniform (Appendix B).
        head_init: a key of HEAD_INITS; whatever it is, the body is the same.

    Raises:
        ConfigError: if the images are too small for the network.
    """
    network = MODELS[name]
    if min(image_shape[1:]) < network.min_size:
        raise ConfigError(
            f"model-name = '{name}' needs images of at least {network.min_size}×{network.min_size} pixels, "
            f"but this dataset's are {image_shape[1]}×{image_shape[2]}."
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = network(image_shape, num_classes)
        HEAD_INITS[head_init](model.head.weight)
        return model.to(memory_format=torch.channels_last)


__all__ = ["HEAD_INITS", "MODELS", "ImageShape", "SplitNetwork", "build_model"]
