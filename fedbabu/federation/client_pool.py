"""Several clients of a node at a time, with one CPU each.

One thread cannot use two CPUs, and two threads that share the steps of one client wait for each other; two clients side
by side do not. A client that always has one thread also gets the same numbers on every node: how many threads share a
sum decides how it is rounded.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from typing import TypeVar

import torch

from fedbabu.federation.ray_workers import is_ray_worker, num_cpus_of_worker

Result = TypeVar("Result")


@cache
def num_cpus() -> int:
    """How many CPUs a node has: in a simulation client-resources-num-cpus, otherwise OMP_NUM_THREADS or all cores."""
    return num_cpus_of_worker() if is_ray_worker() else torch.get_num_threads()


def for_each_client(
    clients: Iterable[int], work: Callable[[int], Result], concurrency: int, threads: int
) -> Iterator[tuple[int, Result | Exception]]:
    """Do some work for each client; yields each client with the result or the error, in the order of the clients.

    No work goes on when the iterator ends, also not after an error of the caller.

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

    if concurrency == 1 and threads == torch.get_num_threads():
        for client in clients:
            yield client, result_or_error(client)
        return
    futures = {client: _pool(concurrency, threads).submit(result_or_error, client) for client in clients}
    try:
        for client, future in futures.items():
            yield client, future.result()
    finally:
        for future in futures.values():
            future.cancel()
        wait(futures.values())


@cache
def _pool(concurrency: int, threads: int) -> ThreadPoolExecutor:
    """A pool of threads in each of which PyTorch computes with a number of threads."""
    return ThreadPoolExecutor(concurrency, "client", initializer=torch.set_num_threads, initargs=(threads,))
