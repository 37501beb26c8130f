"""The ServerApp: run config, federation, rounds, results, in this order."""

# First, while Flower is still starting Ray.
import fedbabu.ray_workers  # noqa: F401  isort: skip

import logging
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from time import monotonic, sleep
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MessageType, RecordDict
from flwr.serverapp import Grid, ServerApp

from fedbabu.checkpoints import Checkpoint, Checkpoints
from fedbabu.config import RunConfig
from fedbabu.data import too_small_client
from fedbabu.errors import ConfigError, DivergedError, RunError
from fedbabu.federation import ClientInfo, Federation
from fedbabu.initial_model import open_initial_model
from fedbabu.messages import Offer
from fedbabu.plots import save_plots
from fedbabu.report import Progress, final_report
from fedbabu.results import RunFolder, results_path
from fedbabu.server_data import ServerData
from fedbabu.storage import check_writable
from fedbabu.strategy import SharedPartFedAvg

NODE_WAIT_SECONDS = 60.0  # without a new node, before the clients found so far are called too few

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run one experiment, or what is left of it, from its configuration to its report."""
    with _flower_quiet(), ExitStack() as until_the_end:
        config, run, saved = RunConfig.from_flower(context.run_config), None, []
        if config.resume:
            run = RunFolder.resumable(config.resume)
            until_the_end.enter_context(run.locked())
            config = config.resuming(run.config)
        else:
            check_writable(results_path(config), f"results-dir = '{config.results_dir}'")
        print(
            f"Looking for {config.num_clients} clients and their data, '{config.dataset}' (decoded once per machine) …",
            flush=True,
        )
        federation = discover(grid, config)
        if run:
            run.check_federation(federation)
            saved = list(Checkpoints(run.path).usable(elsewhere=federation.owners))
        model = open_initial_model(config, federation, saved[0].model if saved else None)
        server_data = ServerData.open(config, federation, model) if config.server_trains else None
        if not run:
            run = RunFolder.create(config, federation)
            until_the_end.enter_context(run.locked())
        saved = saved or [Checkpoint.start(model)]
        run.rewind(saved[0].history)
        progress = Progress(config, federation)
        progress.start(model, run.path, saved[0])
        strategy = _strategy(config, federation, run, saved, server_data, progress)
        with _leaving_resumable(run, strategy):
            strategy.start(
                grid,
                initial_arrays=ArrayRecord(strategy.global_model),
                num_rounds=config.num_rounds,
                timeout=config.client_timeout,
                train_config=ConfigRecord(config.to_flower()),
            )
            run.write_clients(strategy.results, federation)
            run.write_summary(strategy.missing)
            save_plots(run)
        print(final_report(run), flush=True)


def _strategy(
    config: RunConfig,
    federation: Federation,
    run: RunFolder,
    saved: Collection[Checkpoint],
    server_data: ServerData | None,
    progress: Progress,
) -> SharedPartFedAvg:
    """The strategy, which tells the run folder and the user what happens."""

    def on_round(record: dict[str, Any]) -> None:
        run.append_round(record)
        progress.round(record)

    def on_evaluation(personalize: bool) -> None:
        if personalize:  # saved first: the training is worth keeping whatever becomes of the evaluation
            run.write_model(strategy.global_model)
            progress.fine_tuning()

    on_checkpoint = Checkpoints(run.path).save
    strategy = SharedPartFedAvg(
        config, federation, run.path, run.run_id, saved, server_data, on_round, on_evaluation, on_checkpoint
    )
    return strategy


@contextmanager
def _leaving_resumable(run: RunFolder, strategy: SharedPartFedAvg) -> Iterator[None]:
    """If a run stops early, save what it has so far, and say how to go on.

    Raises:
        RunError: in the place of an OSError: what cannot be written or read.
    """
    try:
        yield
    except Exception as error:
        with suppress(OSError):
            strategy.save_checkpoint()
        if not isinstance(error, DivergedError):
            print(f"The run stopped. To go on: flwr run . --run-config \"resume='{run.path}'\"", flush=True)
        if isinstance(error, OSError):
            raise RunError(f"The run cannot use its folder: {error}. Mend that, and resume it.") from error
        raise


def discover(grid: Grid, config: RunConfig) -> Federation:
    """Ask every node which clients it offers, until all num-clients are offered.

    Raises:
        ConfigError: if a node cannot use the configuration, the nodes' data differ, or clients are missing.
    """
    offers: dict[int, Offer] = {}
    run_config = ConfigRecord(config.to_flower())
    last_news = monotonic()
    while True:
        if new_nodes := sorted(set(grid.get_node_ids()) - offers.keys()):
            offers |= _ask(grid, new_nodes, run_config)
            _check_owners(offers)
            last_news = monotonic()
        offered = {client for offer in offers.values() for client in offer.clients}
        missing = sorted(set(range(config.num_clients)) - offered)
        if offers and not missing and len(offers) >= max(offer.num_nodes for offer in offers.values()):
            return _federation(offers)
        if monotonic() - last_news > NODE_WAIT_SECONDS:
            raise ConfigError(
                f"num-clients = {config.num_clients}, but {len(missing)} of them (client {missing[0]} for one) are on "
                f"none of the {len(offers)} connected SuperNodes: start more SuperNodes or lower num-clients."
                if missing
                else f"Only {len(offers)} SuperNodes connected, and they say that there are more: start the others."
            )
        sleep(0.1)


def _ask(grid: Grid, nodes: Iterable[int], run_config: ConfigRecord) -> dict[int, Offer]:
    content = RecordDict({"run-config": run_config})
    questions = [Message(content, message_type=MessageType.QUERY, dst_node_id=node) for node in nodes]
    offers = {}
    for reply in grid.send_and_receive(questions):
        if reply.has_error():
            raise RuntimeError(f"Node {reply.metadata.src_node_id} failed: {reply.error.reason}")
        offers[reply.metadata.src_node_id] = Offer.from_content(reply.content)
    return offers


def _check_owners(offers: dict[int, Offer]) -> None:
    """Refuse an owner whose client another node offers too: one of the two data sets would go unused.

    Raises:
        ConfigError: naming the nodes.
    """
    nodes_of: dict[int, list[int]] = {}
    for node, offer in offers.items():
        for client in offer.clients:
            nodes_of.setdefault(client, []).append(node)
    for client, nodes in nodes_of.items():
        if len(nodes) > 1 and any(offers[node].owner for node in nodes):
            raise ConfigError(
                f"Client {client} is on the SuperNodes {nodes}, but one's own data have one owner: start every "
                "SuperNode with a data-path, and with a partition-id that no other has."
            )


def _federation(offers: dict[int, Offer]) -> Federation:
    clients: dict[int, ClientInfo] = {}
    nodes_of: dict[int, list[int]] = {}
    for node, offer in offers.items():
        columns = (offer.clients, offer.num_train, offer.num_test, offer.classes)
        for client, num_train, num_test, classes in zip(*columns, strict=True):
            if too_small := too_small_client(client, num_train, num_test):
                raise ConfigError(f"{too_small[0].upper()}{too_small[1:]}: give it more, or set test-fraction.")
            nodes_of.setdefault(client, []).append(node)
            clients[client] = ClientInfo(num_train, num_test, tuple(map(int, classes.split())))
    shapes = {tuple(offer.image_shape) for offer in offers.values()}
    if len(shapes) > 1:
        raise ConfigError(f"The SuperNodes' images differ in channels, height or width: {sorted(shapes)}.")
    channels, height, width = shapes.pop()
    names = {offer.dataset for offer in offers.values()}
    return Federation(
        clients=dict(sorted(clients.items())),
        nodes_of=nodes_of,
        owners=any(offer.owner for offer in offers.values()),
        dataset=names.pop() if len(names) == 1 else "own-data",
        image_shape=(channels, height, width),
        num_classes=max(offer.num_classes for offer in offers.values()),
        devices=tuple(sorted({offer.device for offer in offers.values()})),
    )


@contextmanager
def _flower_quiet() -> Iterator[None]:
    """Let this app speak for itself: of Flower's log only warnings, and a sentence without a traceback.

    The filter stays, since Flower logs an error only after this app has ended.
    """
    logger = logging.getLogger("flwr")
    level = logger.level
    logger.addFilter(_sentence_only)
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def _sentence_only(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, ConfigError | RunError):
        record.msg, record.args, record.exc_info = str(error), (), None
    return True
