"""Ray's worker processes, in which the nodes of a simulation work: they are restarted when they die.

Flower leaves a dead worker in its pool, where it fails every message that it is given until the run ends. Ray restarts
a worker if the options of its actor class say so before Flower creates the first actor.
"""

import sys
from contextlib import suppress
from importlib import import_module
from typing import Any


def restart_dead_workers() -> None:
    """Set these options. Call it first of all in the ServerApp's module: Flower creates the actors seconds later.

    In a real federation, which does not use Ray, it does nothing. If Flower or Ray change what is used here, dead
    workers stay dead and the run continues with the others.
    """
    if "flwr.simulation.run_simulation" not in sys.modules:
        return
    with suppress(ImportError, AttributeError):
        ray_actor: Any = import_module("flwr.simulation.ray_transport.ray_actor")
        ray_actor.ClientAppActor._default_options["max_restarts"] = -1
        # The message that a worker died with is given to it once more after the restart. Without this retry, Ray would
        # also fail every message that is sent in the meantime, and all resends would be over in a moment.
        ray_actor.ClientAppActor.__ray_metadata__.method_meta.max_task_retries["run"] = 1


def is_ray_worker() -> bool:
    """Whether this process is one of Ray's: then it works for any node, and Ray may run it on any of its machines."""
    ray: Any = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def num_cpus_of_worker() -> int:
    """How many whole CPUs Ray has assigned to this worker, but at least one."""
    ray: Any = sys.modules["ray"]
    return max(int(ray.get_runtime_context().get_assigned_resources().get("CPU", 1)), 1)


def cpus_of_machines() -> list[int]:
    """How many CPUs each machine has for Ray's workers; call it in one of them."""
    ray: Any = sys.modules["ray"]
    return [int(machine["Resources"].get("CPU", 0)) for machine in ray.nodes() if machine["Alive"]]
