"""What a SuperNode does for its clients when the server sends it a message: the handlers of the ClientApp.

They are `describe` (which clients the node can serve), `train_clients` and `evaluate_clients`.
"""

import os
import re
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from time import perf_counter

from flwr.app import Context, Message

from fedbabu.errors import ConfigError
from fedbabu.federation.client_pool import for_each_client
from fedbabu.federation.messages import NOT_FINITE, EvaluateReply, NodeInfo, Task, TrainReply
from fedbabu.federation.node import Node
from fedbabu.federation.queries import MARKER
from fedbabu.federation.ray_workers import is_ray_worker
from fedbabu.models import SplitNetwork
from fedbabu.runs.checkpoints import ClientStore
from fedbabu.runs.classifier import Classifier
from fedbabu.runs.files import check_writable
from fedbabu.runs.local_states import PERSONAL_FOLDER, folder_of_run, local_state_folder
from fedbabu.training.aggregation import State, add_weighted
from fedbabu.training.client import Client, TrainedClient, evaluate_client, train_client
from fedbabu.training.evaluation import ClientResult
from fedbabu.training.fine_tuning import fine_tune_client

Handler = Callable[[Message, Context], Message]


def without_paths(text: object, context: Context) -> str:
    """A text in which names stand for the paths of the node's data and of what it keeps, which do not leave it."""
    shortened = str(text)
    for folder, name in ((context.node_config.get("data-path"), "data"), (local_state_folder(), "client states")):
        if folder:
            absolute = os.path.abspath(Path(str(folder)).expanduser())
            for path in {absolute, os.path.realpath(absolute)} - {"/"}:
                shortened = re.sub(rf"{re.escape(path)}(?![^/'\":,;)\s])", Path(absolute).name or name, shortened)
    return shortened


def errors_without_paths(handler: Handler) -> Handler:
    """A handler whose errors, which Flower sends to the server, have no paths of the node."""

    @wraps(handler)
    def handle(message: Message, context: Context) -> Message:
        try:
            return handler(message, context)
        except Exception as error:
            if (text := without_paths(error, context)) == str(error):
                raise
            raise RuntimeError(f"{type(error).__name__}: {text}") from error

    return handle


@errors_without_paths
def describe(message: Message, context: Context) -> Message:
    """Answer which clients this node can serve and what data they have, or why it cannot take part."""
    try:
        node = Node.from_message(message, context)
        if node.local_data and _keeps_anything(node):
            check_writable(local_state_folder(), "The folder of client states (FEDBABU_STATE)")
        marker = str(message.content.config_records[MARKER]["path"])
        if marker and _needs_run_folder(node) and not Path(marker).exists():
            raise ConfigError(
                f"A node does not see {Path(marker).parent}, where {_what_is_kept(node)}: results-dir must be a folder "
                "that all machines share."
            )
        info = node.info()
        info.notes = tuple(without_paths(note, context) for note in info.notes)
        content = info.to_content()
    except ConfigError as error:
        content = NodeInfo.refusal(ConfigError(without_paths(error, context)))
    return Message(content, reply_to=message)


@errors_without_paths
def train_clients(message: Message, context: Context) -> Message:
    """Train the clients of the task, each from the global model, and reply with the sum of what they share."""
    node, task, folder, global_model = _unpack(message, context)
    store, reply, started = ClientStore(folder / "clients"), TrainReply(), perf_counter()

    def train(number: int) -> TrainedClient:
        saved_rounds = task.clients[number]
        client = node.client(number, global_model, task.data_checksums.get(number, ""))
        trained = train_client(client, store.load(number, saved_rounds[0]), task.training_rounds)
        if trained.client_state:
            store.save(number, task.server_round, trained.client_state, saved_rounds)
        return trained

    for number, trained in for_each_client(task.clients, train, node.concurrency, node.threads_per_client):
        if isinstance(trained, Exception):
            reply.failed[number] = _failure_reason(trained, context)
        else:
            reply.add(number, trained, only_client=len(task.clients) == 1)
    reply.seconds = perf_counter() - started
    return Message(reply.to_content(), reply_to=message)


@errors_without_paths
def evaluate_clients(message: Message, context: Context) -> Message:
    """Evaluate the clients of the task; in the final evaluation, fine-tune each and measure it after every epoch."""
    node, task, folder, global_model = _unpack(message, context)
    store, reply, started = ClientStore(folder / "clients"), EvaluateReply(), perf_counter()

    def evaluate(number: int) -> tuple[ClientResult, State]:
        client = node.client(number, global_model, task.data_checksums.get(number, ""))
        client_state = store.load(number, task.clients[number][0])
        if not task.personalize:
            return evaluate_client(client, client_state), {}
        result, directions = fine_tune_client(client, client_state, task.server_round, task.last_sampled_client)
        if task.keep_models:
            _keep_model(client, folder / PERSONAL_FOLDER)
        return result, directions

    for number, evaluated in for_each_client(task.clients, evaluate, node.concurrency, node.threads_per_client):
        if isinstance(evaluated, Exception):
            reply.failed[number] = _failure_reason(evaluated, context)
        else:
            reply.results[number], directions = evaluated
            add_weighted(reply.direction_sums, directions)
    reply.seconds = perf_counter() - started
    return Message(reply.to_content(), reply_to=message)


def _keep_model(client: Client, folder: Path) -> None:
    """Save a client's fine-tuned model; if that fails, a line says so, and what the client measured still counts."""
    try:
        Classifier.of_client(client).save(folder / f"{client.id}.safetensors")
    except OSError as error:
        print(f"The model of client {client.id} was not kept: {error}", flush=True)


def _unpack(message: Message, context: Context) -> tuple[Node, Task, Path, SplitNetwork]:
    """The node, its task, the folder for what it keeps, and a network with the global model."""
    task = Task.from_content(message.content)
    node = Node.from_message(message, context).with_class_names(task.class_names)
    global_state = message.content.array_records["arrays"].to_torch_state_dict()
    return node, task, _folder_for_what_is_kept(node, task), node.global_model(global_state)


def _folder_for_what_is_kept(node: Node, task: Task) -> Path:
    """The folder for client states and personal models: the run folder, or one on the node in a real federation.

    Raises:
        RuntimeError: If clients would keep their state on another machine than the one that trains them next.
    """
    run = Path(task.run)
    if not node.local_data and run.is_dir():
        return run
    if _needs_run_folder(node):
        raise RuntimeError(f"This node does not see the run folder {run}, where {_what_is_kept(node)}.")
    return folder_of_run(task.run_id, run.name) if _keeps_anything(node) else run


def _needs_run_folder(node: Node) -> bool:
    """Whether what clients keep must be in the run folder, because other machines may serve them next.

    That is so if nodes share clients, and in a simulation, whose workers are bound to no node.
    """
    return _keeps_anything(node) and not node.local_data and (len(node.clients) > 1 or is_ray_worker())


def _what_is_kept(node: Node) -> str:
    """What clients keep and why, for a sentence."""
    if node.config.algorithm_spec.keeps:
        return f"algorithm = '{node.config.algorithm}' keeps a part of every client's model"
    return "keep-personalized = true keeps every client's model"


def _keeps_anything(node: Node) -> bool:
    """Whether clients keep a part of their model between rounds, or their fine-tuned model at the end."""
    return bool(node.config.algorithm_spec.keeps) or node.config.keep_personalized


def _failure_reason(error: Exception, context: Context) -> str:
    """Why a client failed, for the server."""
    reason = f"{NOT_FINITE}{error}" if isinstance(error, FloatingPointError) else f"{type(error).__name__}: {error}"
    return without_paths(reason, context)
