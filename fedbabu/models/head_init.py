"""Initializations of the head's weight, float32 [classes, features], not of its bias (Appendices B and Q)."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

RELU_GAIN = nn.init.calculate_gain("relu")  # √2, as in the paper


@torch.no_grad()
def _init_similar(weight: Tensor) -> None:
    """Initialize all rows in almost the same direction: uniform on [0.45, 0.55], with norm 1 (footnote 13)."""
    nn.init.uniform_(weight, 0.45, 0.55)
    weight.div_(weight.norm(dim=1, keepdim=True))


HEAD_INITS: dict[str, Callable[[Tensor], object]] = {
    "he": lambda weight: weight,  # a new linear layer of PyTorch has the He uniform initialization already
    "xavier-uniform": partial(nn.init.xavier_uniform_, gain=RELU_GAIN),
    "xavier-normal": partial(nn.init.xavier_normal_, gain=RELU_GAIN),
    "orthogonal": nn.init.orthogonal_,  # rows are orthonormal if there are no more classes than features
    "similar": _init_similar,
}


def mean_row_cosine(weight: Tensor) -> float:
    """The mean cosine similarity between two rows of a weight, [classes, features] (the values of Figure 3)."""
    rows = F.normalize(weight)
    num_rows = len(rows)
    return ((rows @ rows.T).sum().item() - num_rows) / (num_rows * (num_rows - 1))
