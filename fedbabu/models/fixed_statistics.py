"""BatchNorm with fixed statistics, so that a finished model classifies one image as well as a batch of images.

The BatchNorm of the paper's networks has no running statistics and uses those of the batch (Appendix A.1), also in
evaluation. An image alone, or images of one class, are then normalized in a way that the model was not trained for.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from fedbabu.models.base import SplitNetwork


def add_statistics(model: SplitNetwork) -> list[nn.BatchNorm2d]:
    """Give the BatchNorm layers that have none the buffers of running statistics, in place; returns these layers.

    From then on, the model in evaluation mode normalizes with what the buffers hold.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d) and layer.running_mean is None]
    for layer in layers:
        device = layer.weight.device
        layer.register_buffer("running_mean", torch.zeros(layer.num_features, device=device))
        layer.register_buffer("running_var", torch.ones(layer.num_features, device=device))
    return layers


@torch.no_grad()
def measure_statistics(model: SplitNetwork, batches: Iterable[Tensor]) -> None:
    """Fix the statistics of BatchNorm layers that have none, in place: to the mean over batches of their statistics.

    Args:
        model: The network, which is in evaluation mode afterwards.
        batches: Normalized images, float32 [batch, C, H, W], in batches of about the same size.
    """
    model.eval()
    layers = add_statistics(model)
    for layer in layers:
        layer.train()
        layer.track_running_stats = True  # so that the buffers change
    for number, batch in enumerate(batches):
        for layer in layers:
            layer.momentum = 1.0 / (number + 1)  # the weight of this batch in the mean over all so far
        model(batch)
    for layer in layers:
        layer.track_running_stats = False
        layer.eval()
