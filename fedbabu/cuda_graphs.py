"""A training step as a CUDA graph: launched as a whole, where its hundred small kernels are launched one by one."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fedbabu.algorithms import Batch

Batches = Sequence[Batch]


def capture(function: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    """Record what a function does on the GPU, without doing it: what does it, and where its result will then be."""
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # torch.cuda.graph would collect garbage first, for longer than some steps take
        graph.capture_begin()
        result = function()
        graph.capture_end()
    torch.cuda.current_stream().wait_stream(stream)
    return graph.replay, result


class GraphedStep:
    """A step that is replayed once batches of the same shapes have come before.

    For the first of their shapes it is done as it is, which lets cuDNN and cuBLAS prepare; the second time it is
    captured. Whatever the step reads and writes besides its batches must stay where it is in memory.

    Args:
        step: from batches to a loss, with no decision that depends on a value.
        capture: as above.
    """

    def __init__(
        self,
        step: Callable[[Batches], Tensor],
        capture: Callable[[Callable[[], Tensor]], tuple[Callable[[], None], Tensor]] = capture,
    ) -> None:
        self._step, self._capture = step, capture
        self._seen: set[tuple[torch.Size, ...]] = set()
        self._captured: dict[tuple[torch.Size, ...], tuple[Batches, Callable[[], None], Tensor]] = {}

    def __call__(self, batches: Batches) -> Tensor:
        """Take the step. The loss is good until the next one."""
        shapes = tuple(images.shape for images, _ in batches)
        if shapes not in self._seen:
            self._seen.add(shapes)
            return self._step(batches)
        if shapes not in self._captured:
            places = [(images.clone(), labels.clone()) for images, labels in batches]
            self._captured[shapes] = places, *self._capture(lambda: self._step(places))
        inputs, replay, loss = self._captured[shapes]
        for batch, new_batch in zip(inputs, batches, strict=True):
            for place, value in zip(batch, new_batch, strict=True):
                place.copy_(value)
        replay()
        return loss
