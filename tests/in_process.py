"""Flower's grid without processes: messages go straight to the ClientApp, one node after the other."""

from collections.abc import Iterable
from pathlib import Path

from flwr.app import Context, Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from fedbabu import client_app, server_app
from fedbabu.runs.checkpoints import Checkpoints
from fedbabu.runs.folder import RunFolder, finished_runs

# What Flower's runtime sets in a ServerApp's process, and a Message asks for.
TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1


class InProcessGrid(Grid):
    """Nodes 100, 101, … that run `client_app.app`; keeps every message and reply for a test to look at."""

    def __init__(self, run_config: dict, num_nodes: int = 2, node_configs: list[dict] | None = None) -> None:
        self.run_config = run_config
        self.node_configs = node_configs or [
            {"partition-id": number, "num-partitions": num_nodes} for number in range(num_nodes)
        ]
        self.exchanges: list[tuple[Message, Message]] = []

    def get_node_ids(self) -> list[int]:
        return [100 + number for number in range(len(self.node_configs))]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        replies = [self._reply(message) for message in messages]
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
    set_run = run = create_message = push_messages = pull_messages = None


def run_server(run_config: dict, **grid_arguments) -> tuple[RunFolder, InProcessGrid]:
    """Run the ServerApp to its end; returns its run folder and the grid with all messages."""
    grid = InProcessGrid(run_config, **grid_arguments)
    before = {run.path for run in finished_runs(run_config["results-dir"])}
    context = Context(run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config=run_config)
    server_app.main(grid, context)
    (run,) = (run for run in finished_runs(run_config["results-dir"]) if run.path not in before)
    return run, grid


def kept_states(run: Path) -> dict[int, dict]:
    """What each client kept last, by the newest checkpoint."""
    checkpoints = Checkpoints(run)
    kept = checkpoints.usable()[0].kept if checkpoints.clients.folder.is_dir() else {}
    return {client: checkpoints.clients.load(client, kept[client]) for client in sorted(kept)}


def essence(run: RunFolder) -> dict:
    """All that a run ends with but how long it took, to compare bit for bit."""
    states = {"model": run.model()} | kept_states(run.path)
    times = {"seconds", "train-seconds", "evaluate-seconds"}
    return {
        "states": {
            of: {name: value.numpy().tobytes() for name, value in state.items()} for of, state in states.items()
        },
        "rounds": [{key: value for key, value in record.items() if key not in times} for record in run.rounds],
        "clients": run.clients,
    }
