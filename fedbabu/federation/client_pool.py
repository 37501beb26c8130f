"""Several clients of a node at a time, with one CPU each.

One thread cannot use two CPUs, and two threads that share the steps of one client wait for each other; two clients side
by side do not. A client that always has one thread also gets the same numbers on every node: how many threads share a
sum decides how it is rounded.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import torch

from fedbabu.training.device import num_cpus

Result = TypeVar("Result")


def for_each_client(
    clients: Iterable[int], work: Callable[[int], Result], concurrency: int, threads: int
) -> Iterator[tuple[int, Result | Exception]]:
    """Do some work for each client; yields each client with the result or the error, in the order of the clients.

    Args:
        clients: The clients' ids.
        work: What to do, given a client's id. It must not change what the work for other clients uses.
        concurrency: For how many clients to work at a time.
        threads: With how many threads PyTorch computes for one client.
    """

    def result_or_error(client: int) -> Result | Exception:
        try:
            return work(client)
        except Exception as error:  # of any kind: the work for the other clients is done all the same
            return error

    ids = list(clients)
    if concurrency == 1 and threads == num_cpus():
        results: Iterator[Result | Exception] = map(result_or_error, ids)
    else:
        results = _pool(concurrency, threads).map(result_or_error, ids)
    yield from zip(ids, results, strict=True)


@cache
def _pool(concurrency: int, threads: int) -> ThreadPoolExecutor:
    """A pool of threads in each of which PyTorch computes with a number of threads."""
    return ThreadPoolExecutor(concurrency, "client", initializer=torch.set_num_threads, initargs=(threads,))
