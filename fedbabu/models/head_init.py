"""Initializations of the head's last layer (Appendices B and Q).

"he" is PyTorch's default for a linear layer, U(±1/√d) for weight and bias, which the federated runs have. The others
are those of the centralized runs in the authors' code (`main_single.py`): gain √2 of ReLU, and a bias of zero.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

RELU_GAIN = nn.init.calculate_gain("relu")  # √2


def _initialize(init_weight: Callable[..., Any], linear: nn.Linear) -> None:
    init_weight(linear.weight)
    nn.init.zeros_(linear.bias)


@torch.no_grad()
def _init_similar(weight: Tensor) -> None:
    """Initialize all rows in almost the same direction: uniform on [0.45, 0.55], with norm 1 (footnote 13)."""
    nn.init.uniform_(weight, 0.45, 0.55)
    weight.div_(weight.norm(dim=1, keepdim=True))


_WEIGHTS: dict[str, Callable[..., Any]] = {
    "he-uniform": partial(nn.init.kaiming_uniform_, nonlinearity="relu"),  # U(±√(6/d))
    "he-normal": partial(nn.init.kaiming_normal_, nonlinearity="relu"),  # N(0, 2/d)
    "xavier-uniform": partial(nn.init.xavier_uniform_, gain=RELU_GAIN),
    "xavier-normal": partial(nn.init.xavier_normal_, gain=RELU_GAIN),
    "orthogonal": partial(nn.init.orthogonal_, gain=RELU_GAIN),  # if there are no more classes than features
    "similar": _init_similar,
}
HEAD_INITS: dict[str, Callable[[nn.Linear], object]] = {"he": lambda linear: linear}
HEAD_INITS |= {name: partial(_initialize, init_weight) for name, init_weight in _WEIGHTS.items()}


def mean_row_cosine(weight: Tensor) -> float:
    """The mean cosine similarity between two rows of a weight, [classes, features] (the values of Figure 3)."""
    rows = F.normalize(weight)
    num_rows = len(rows)
    return ((rows @ rows.T).sum().item() - num_rows) / (num_rows * (num_rows - 1))
