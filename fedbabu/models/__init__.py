"""The networks, each split in body and head; `MODELS` lists those that the run-config key `model-name` accepts."""

import torch

from fedbabu.models.base import ImageShape, SplitNetwork
from fedbabu.models.head_init import HEAD_INITS, mean_row_cosine
from fedbabu.models.networks import FourConvNet, MobileNet, ResNet10, ResNet18, ResNet50, ThreeConvNet

MODELS: dict[str, type[SplitNetwork]] = {
    network.__name__: network for network in (ThreeConvNet, FourConvNet, MobileNet, ResNet10, ResNet18, ResNet50)
}


def build_model(
    name: str, image_shape: ImageShape, num_classes: int, seed: int, head_init: str = "he", head_blocks: int = 0
) -> SplitNetwork:
    """Build a network, a key of MODELS, with new parameters, in channels-last layout.

    Images that are too small for the network are enlarged. A key of HEAD_INITS chooses the initialization of the head's
    last layer; all others have PyTorch's default, He uniform (Appendix B). The last head_blocks blocks belong to the
    head.

    Raises:
        KeyError: If there is no network of this name.
        ValueError: If the body does not have more than head_blocks blocks.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MODELS[name](image_shape, num_classes, head_blocks)
        HEAD_INITS[head_init](model.linear)
        return model.to(memory_format=torch.channels_last)


__all__ = ["HEAD_INITS", "MODELS", "ImageShape", "SplitNetwork", "build_model", "mean_row_cosine"]
