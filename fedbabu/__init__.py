"""FedBABU (Oh, Kim and Yun, ICLR 2022) on Flower: federated averaging with body aggregation and body update."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedbabu.runs.loaded import load_run

__all__ = ["load_run"]


def __getattr__(name: str) -> Any:  # load_run imports PyTorch, which the command line does without as long as it can
    if name == "load_run":
        from fedbabu.runs.loaded import load_run

        return load_run
    raise AttributeError(f"module 'fedbabu' has no attribute '{name}'")
