"""Checks of a node's reply before the server uses it: lengths of lists; names, shapes and types of arrays."""

from collections.abc import Collection, Mapping

import torch
from flwr.app import Array, RecordDict
from torch import Tensor

MAX_REASON_LENGTH = 300  # characters of a node's explanation that are kept
NPY_HEADER_BYTES = 4096  # that NumPy's file format may add to an array's own bytes


class ReplyError(ValueError):
    """A reply that does not answer what the node was asked. The message completes "the reply is refused: its"."""


def check_length(name: str, values: Collection[float], expected: int) -> None:
    """Raise a ReplyError if a list has more or fewer values than expected."""
    if len(values) != expected:
        raise ReplyError(f"{name} has {len(values)} values for a client, not {expected}")


def checked_state(content: RecordDict, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The arrays of a reply as a state dict; raises ReplyError unless their names, shapes and types are as expected."""
    arrays = content.array_records.get("arrays")
    if arrays is None:
        raise ReplyError("arrays are missing")
    if unexpected := arrays.keys() ^ expected.keys():
        raise ReplyError(f"array {min(unexpected)} is {'missing' if min(unexpected) in expected else 'not shared'}")
    return {name: _checked_tensor(name, arrays[name], tensor) for name, tensor in expected.items()}


def _checked_tensor(name: str, array: Array, expected: Tensor) -> Tensor:
    form = (tuple(expected.shape), str(expected.dtype).removeprefix("torch."))
    expected_form = f"{form[1]} {list(form[0])}"
    if (tuple(array.shape), array.dtype) != form:
        raise ReplyError(f"array {name} is {array.dtype} {list(array.shape)}, not {expected_form}")
    if len(array.data) > expected.numel() * expected.element_size() + NPY_HEADER_BYTES:
        raise ReplyError(f"array {name} has {len(array.data)} bytes, too many for {expected_form}")
    try:
        values = array.numpy()
    except Exception as error:  # of many kinds, depending on what is wrong with the bytes
        raise ReplyError(f"array {name} cannot be read: {error}") from error
    if (values.shape, str(values.dtype)) != form:
        raise ReplyError(f"array {name} contains {values.dtype} {list(values.shape)}, not {expected_form}")
    return torch.from_numpy(values.copy())


def one_line(reason: object) -> str:
    """A text on one line, of at most MAX_REASON_LENGTH characters."""
    return " ".join(str(reason).split())[:MAX_REASON_LENGTH]
