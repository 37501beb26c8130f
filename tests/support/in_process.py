"""Flower's grid without processes: messages go straight to the ClientApp, one node after the other."""

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from time import monotonic
from unittest.mock import patch

from flwr.app import Context, Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from fedbabu import client_app, server_app
from fedbabu.federation import delivery, discovery, late_nodes, pace, queries
from fedbabu.federation.messages import Task
from fedbabu.runs.checkpoints import Checkpoints
from fedbabu.runs.folder import RunFolder
from fedbabu.runs.results_folder import finished_runs

# What Flower's runtime sets in a ServerApp's process, and a Message asks for.
TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1

discovery.NODE_WAIT_SECONDS = 3.0  # all nodes of a test are there from the start

# Tests look at a message to each node, with all its clients, unless they are about portions.
pace.FIRST_PORTION = 1000

# The clock of the server's waiting, which runs ahead when all nodes that it waits for are silent.
skipped_seconds = [0.0]
for module in (delivery, discovery, late_nodes, queries):
    module.monotonic = lambda: monotonic() + skipped_seconds[0]


Fault = Callable[[Message, Message], Message | None]
"""Given a message and its reply, returns the reply that the server gets instead; None for a node that is silent."""


class InProcessGrid(Grid):
    """Nodes 100, 101, … that run `client_app.app`; keeps every message and reply for a test to look at.

    Args:
        run_config: Flower's run config.
        num_nodes: The number of simulated nodes.
        node_configs: The configuration of each node instead, for nodes with local data.
        fault: What happens to replies.
    """

    def __init__(
        self,
        run_config: dict,
        num_nodes: int = 2,
        node_configs: list[dict] | None = None,
        fault: Fault = lambda message, reply: reply,
    ) -> None:
        self.run_config = run_config
        self.fault = fault
        self.node_configs = node_configs or [
            {"partition-id": number, "num-partitions": num_nodes} for number in range(num_nodes)
        ]
        self.exchanges: list[tuple[Message, Message]] = []
        self.pull_interval = 0.0
        self._replies: dict[str, Message | None] = {}  # that were not pulled yet, by the id of the message

    def get_node_ids(self) -> list[int]:
        return [100 + number for number in range(len(self.node_configs))]

    def push_messages(self, messages: Iterable[Message]) -> None:
        for message in messages:
            reply = self.fault(message, self._reply(message))
            self._replies[message.metadata.message_id] = reply

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        replies = [self._replies.pop(each) for each in message_ids if self._replies[each] is not None]
        skipped_seconds[0] += 0.0 if replies else 10.0
        return replies

    def _reply(self, message: Message) -> Message:
        message.metadata.__dict__["_message_id"] = str(len(self.exchanges))
        node = message.metadata.dst_node_id
        context = Context(
            run_id=1,
            node_id=node,
            node_config=self.node_configs[node - 100],
            state=RecordDict(),
            run_config=self.run_config,
        )
        try:
            reply = client_app.app(message, context)
        except Exception as error:  # as Flower's runtime does
            reply = Message(Error(code=2, reason=repr(error)), reply_to=message)
        self.exchanges.append((message, reply))
        return reply

    def of_type(self, message_type: str) -> list[tuple[Message, Message]]:
        return [pair for pair in self.exchanges if pair[0].metadata.message_type == message_type]

    # The rest of Flower's interface, which the app does not use.
    set_run = run = create_message = send_and_receive = None


def run_server(run_config: dict, *, figures: bool = False, **grid_arguments) -> tuple[RunFolder, InProcessGrid]:
    """Run the ServerApp to its end; returns its run folder and the grid with all messages.

    Args:
        run_config: Flower's run config.
        figures: Whether to draw the figures of the finished run, which takes seconds.
        **grid_arguments: Arguments of InProcessGrid.
    """
    grid = InProcessGrid(run_config, **grid_arguments)
    before = {run.path for run in finished_runs(run_config["results-dir"])}
    context = Context(run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config=run_config)
    with nullcontext() if figures else patch("fedbabu.plots.accuracy.save_plots"):
        server_app.main(grid, context)
    (run,) = (run for run in finished_runs(run_config["results-dir"]) if run.path not in before)
    return run, grid


def tasks(grid: InProcessGrid, message_type: str) -> list[Task]:
    """The tasks in all messages of a type, in the order in which they were sent."""
    return [Task.from_content(message.content) for message, _ in grid.of_type(message_type)]


def client_states(run: RunFolder) -> dict[int, dict]:
    """The state that each client saved last, by the newest checkpoint."""
    checkpoints = Checkpoints(run.path)
    saved_rounds = checkpoints.usable()[0].client_state_rounds if checkpoints.clients.folder.is_dir() else {}
    return {client: checkpoints.clients.load(client, saved_rounds[client]) for client in sorted(saved_rounds)}


def essence(run: RunFolder) -> dict:
    """Everything that a run ends with except how long it took, to compare bit for bit."""
    states = {"model": run.model()} | client_states(run)
    times = {"seconds", "train-seconds", "evaluate-seconds"}
    rounds = [record.to_json() for record in run.rounds]
    return {
        "states": {
            owner: {name: value.numpy().tobytes() for name, value in state.items()} for owner, state in states.items()
        },
        "rounds": [{key: value for key, value in record.items() if key not in times} for record in rounds],
        "clients": run.clients,
        "best clients": run.best_clients,
        "best model": {name: value.numpy().tobytes() for name, value in run.best_model().items()},
    }
