"""A training step as a CUDA graph: launched as a whole, where its hundred small kernels are launched one by one."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import TypeVar

import torch
from torch import Tensor

from fedbabu.algorithms import Batch

Batches = Sequence[Batch]
T = TypeVar("T")


class Cuda:
    """Recording and replaying on the GPU, on a stream beside the one that everything else is done on."""

    @staticmethod
    def prepare(function: Callable[[], T]) -> T:
        """Call a function on that stream, where cuDNN and cuBLAS then have what they need."""
        stream = _stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            result = function()
        torch.cuda.current_stream().wait_stream(stream)
        return result

    @staticmethod
    def record(function: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        """Record what a function launches, without doing it.

        Returns:
            A function that does it, and the tensor into which the result then comes, every time.
        """
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=_stream()):  # which ends the recording even if the function fails
            result = function()
        return graph.replay, result


@cache
def _stream() -> torch.cuda.Stream:
    """One for all recordings of a process: cuBLAS keeps a workspace for every stream that it has seen."""
    return torch.cuda.Stream()


class GraphedStep:
    """A step that is recorded when batches of some shapes come for the second time, and replayed from then on.

    The first time it is done as it is. Whatever the step reads and writes besides its batches must stay where it is in
    memory, and what it decides must not depend on a value in a tensor.

    Args:
        step: from batches to a loss.
        device: to record and replay with.
    """

    def __init__(self, step: Callable[[Batches], Tensor], device: type[Cuda] = Cuda) -> None:
        self._step, self._device = step, device
        self._seen: set[tuple[torch.Size, ...]] = set()
        self._recorded: dict[tuple[torch.Size, ...], tuple[Batches, Callable[[], None], Tensor]] = {}

    def __call__(self, batches: Batches) -> Tensor:
        """Take the step, and return its loss, which is good until the next one."""
        shapes = tuple(images.shape for images, _ in batches)
        if shapes not in self._seen:
            self._seen.add(shapes)
            return self._device.prepare(lambda: self._step(batches))
        if shapes not in self._recorded:
            places = [(images.clone(), labels.clone()) for images, labels in batches]
            self._recorded[shapes] = places, *self._device.record(lambda: self._step(places))
        inputs, replay, loss = self._recorded[shapes]
        for batch, new_batch in zip(inputs, batches, strict=True):
            for place, value in zip(batch, new_batch, strict=True):
                place.copy_(value)
        replay()
        return loss
