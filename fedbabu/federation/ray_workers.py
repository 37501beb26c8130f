"""Have a simulation's worker processes started again when they die.

Flower leaves a dead one in its pool, where it fails every message that it is given until the run ends. Ray starts it
again if the actor's options say so before Flower makes the first actor, seconds after it begins to load the ServerApp.
So server_app imports this module before all that takes time, and importing it is all there is to it. Should Flower or
Ray change what is used here, dead workers stay dead, and the run goes on with the others.

The message that a worker died with is given to it once more, when it is back. Without such a retry, Ray would also
fail, at once, whatever it is sent until then, and all our resends would be over in a moment.
"""

import sys
from contextlib import suppress
from importlib import import_module
from typing import Any

if "flwr.simulation.run_simulation" in sys.modules:  # else this is a real federation, or a test
    with suppress(ImportError, AttributeError):
        flowers: Any = import_module("flwr.simulation.ray_transport.ray_actor")
        flowers.ClientAppActor._default_options["max_restarts"] = -1
        flowers.ClientAppActor.__ray_metadata__.method_meta.max_task_retries["run"] = 1
