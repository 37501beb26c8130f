"""How the head's weight, float32 [classes, features], starts (Appendices B and Q). The bias is PyTorch's default."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

RELU_GAIN = nn.init.calculate_gain("relu")  # √2, which the paper takes too


def _he(weight: Tensor) -> None:
    """PyTorch's own initialization of a linear layer, He uniform, which is there already."""


def _xavier_uniform(weight: Tensor) -> None:
    nn.init.xavier_uniform_(weight, RELU_GAIN)


def _xavier_normal(weight: Tensor) -> None:
    nn.init.xavier_normal_(weight, RELU_GAIN)


def _orthogonal(weight: Tensor) -> None:
    """Orthonormal rows, if there are no more classes than features."""
    nn.init.orthogonal_(weight)


@torch.no_grad()
def _similar(weight: Tensor) -> None:
    """Uniform on [0.45, 0.55], each row divided by its norm, so that all point almost the same way (footnote 13)."""
    nn.init.uniform_(weight, 0.45, 0.55)
    weight.div_(weight.norm(dim=1, keepdim=True))


def mean_row_cosine(weight: Tensor) -> float:
    """The mean cosine similarity between two rows of a weight, [classes, features] (the values of Figure 3)."""
    rows = F.normalize(weight)
    num_rows = len(rows)
    return ((rows @ rows.T).sum().item() - num_rows) / (num_rows * (num_rows - 1))


HEAD_INITS: dict[str, Callable[[Tensor], object]] = {
    "he": _he,
    "xavier-uniform": _xavier_uniform,
    "xavier-normal": _xavier_normal,
    "orthogonal": _orthogonal,
    "similar": _similar,
}
