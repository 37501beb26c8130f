"""The ServerApp: run config, federation, rounds, results, in this order."""

# First, while Flower is still starting Ray.
import fedbabu.federation.ray_workers  # noqa: F401  isort: skip

import logging
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from time import monotonic, sleep
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MessageType, RecordDict
from flwr.serverapp import Grid, ServerApp

from fedbabu.config import RunConfig
from fedbabu.data import too_small_client
from fedbabu.errors import ConfigError, DivergedError, RunError
from fedbabu.federation.clients import ClientInfo, Federation
from fedbabu.federation.messages import Offer, ReplyError
from fedbabu.runs.checkpoints import Checkpoint, Checkpoints
from fedbabu.runs.files import check_writable
from fedbabu.runs.folder import RunFolder, results_path
from fedbabu.runs.initial_model import open_initial_model
from fedbabu.runs.loggers import Log, check_logger, open_logger
from fedbabu.runs.progress import Progress, final_report
from fedbabu.strategy import SharedPartFedAvg
from fedbabu.training.diagnostics import body_features
from fedbabu.training.server_training import ServerData

NODE_WAIT_SECONDS = 60.0  # without a new node, before the clients found so far are called too few

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run one experiment, or what is left of it, from its configuration to its report."""
    with _flower_quiet(), _sentences(), ExitStack() as until_the_end:
        config = given = RunConfig.from_flower(context.run_config)
        run, saved = None, []
        if given.resume:
            run = RunFolder.resumable(given.resume)
            until_the_end.enter_context(run.locked())
            config = given.resuming(run.config)
        check_logger(config.logger)
        if not run:
            check_writable(results_path(config), f"results-dir = '{config.results_dir}'")
        print(
            f"Looking for {config.num_clients} clients and their data, '{config.dataset}' (decoded once per machine) …",
            flush=True,
        )
        federation = discover(grid, config)
        if run:
            run.check_federation(federation)
            saved = Checkpoints(run.path).usable()
        model = open_initial_model(config, federation, saved[0].model if saved else None)
        if "features" in config.records and federation.owners:
            raise ConfigError(
                f"record = '{config.record}' needs the clients' images on the server, but the SuperNodes have data of "
                "their own: take 'features' out of it."
            )
        server_data = ServerData.open(config, federation, model) if config.server_trains else None
        if not run:
            saved = [Checkpoint.start(model)]
            run = RunFolder.create(config, federation, saved[0])
            until_the_end.enter_context(run.locked())
        run.rewind(saved[0].history)
        progress = Progress(config, federation)
        progress.start(model, run.path, saved[0], resumed=bool(given.resume))
        log = open_logger(config.logger, run.path, len(run.rounds) + 1)
        strategy = _strategy(config, federation, run, saved, server_data, progress, log)
        with _leaving_resumable(run, strategy):
            strategy.start(
                grid,
                initial_arrays=ArrayRecord(strategy.global_model),
                num_rounds=config.num_rounds,
                timeout=config.client_timeout,
                train_config=ConfigRecord(config.to_flower()),
            )
            run.write_clients(strategy.results, federation)
            if strategy.similarity:
                run.write_similarity(strategy.similarity)
            if "features" in config.records:
                run.write_features(*body_features(model, strategy.global_model, config))
            run.summarize(strategy.missing)
            means = {f"final/{metric}": of["mean"] for metric, of in run.summary["accuracy"].items()}
            log({"round": config.num_rounds} | means)
            from fedbabu.plots import save_plots  # not at the start: matplotlib takes half a second

            save_plots(run)
            run.write_summary()
        print(final_report(run), flush=True)


def _strategy(
    config: RunConfig,
    federation: Federation,
    run: RunFolder,
    saved: Collection[Checkpoint],
    server_data: ServerData | None,
    progress: Progress,
    log: Log,
) -> SharedPartFedAvg:
    """The strategy, which tells the run folder, the user and the logger what happens."""

    def on_round(record: dict[str, Any]) -> None:
        run.append_round(record)
        progress.round(record)
        log(record)

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
    """If a run stops early, save what it has so far, and say how to go on."""
    try:
        yield
    except Exception as error:
        with suppress(OSError):
            strategy.save_checkpoint()
        if not isinstance(error, DivergedError):
            overrides = f"resume='{run.path}'{strategy.config.conduct_overrides}"
            print(f'The run stopped. To go on: flwr run . --stream --run-config "{overrides}"', flush=True)
        raise


@contextmanager
def _sentences() -> Iterator[None]:
    """Say what file could not be used.

    Raises:
        RunError: in the place of an OSError.
    """
    try:
        yield
    except OSError as error:
        raise RunError(f"The run stopped at a file that it cannot use: {error}.") from error


def discover(grid: Grid, config: RunConfig) -> Federation:
    """Ask every node which clients it offers, until all num-clients are offered.

    Raises:
        ConfigError: if a node cannot use the configuration, the nodes' data differ, or clients are missing.
    """
    offers: dict[int, Offer] = {}
    failed: dict[int, str] = {}  # nodes that did not say what they offer
    last_news = monotonic()
    while True:
        if new_nodes := sorted(set(grid.get_node_ids()) - offers.keys()):
            found = _ask(grid, new_nodes, config, failed)
            offers |= found
            _check_owners(offers)
            last_news = monotonic() if found else last_news
        offered = {client for offer in offers.values() for client in offer.clients}
        num_missing = config.num_clients - len(offered)
        if offers and not num_missing and len(offers) >= max(offer.num_nodes for offer in offers.values()):
            return _federation(offers)
        if monotonic() - last_news > NODE_WAIT_SECONDS:
            why = "".join(f" Node {node} {reason}." for node, reason in failed.items())
            missing = next(client for client in count() if client not in offered)
            raise ConfigError(
                f"num-clients = {config.num_clients}, but {num_missing} of them (client {missing} for one) are on "
                f"none of the {len(offers)} connected SuperNodes: start more SuperNodes or lower num-clients.{why}"
                if num_missing
                else f"Only {len(offers)} SuperNodes connected, which say that there are more: start the others.{why}"
            )
        sleep(1.0 if failed else 0.1)


def _ask(grid: Grid, nodes: Iterable[int], config: RunConfig, failed: dict[int, str]) -> dict[int, Offer]:
    """What nodes offer; into `failed` goes what is wrong with those that do not say.

    Raises:
        ConfigError: if a node cannot use the configuration, or offers what there cannot be.
    """
    content = RecordDict({"run-config": ConfigRecord(config.to_flower())})
    questions = [Message(content, message_type=MessageType.QUERY, dst_node_id=node) for node in nodes]
    offers = {}
    for reply in grid.send_and_receive(questions, timeout=config.client_timeout or None):
        node = reply.metadata.src_node_id
        if reply.has_error():  # its process may have died: it is asked again
            failed[node] = f"failed: {reply.error.reason}"
            continue
        try:
            offers[node] = Offer.from_content(reply.content, config.num_clients)
        except ReplyError as error:
            raise ConfigError(f"The offer of node {node} is refused: {error}.") from error
        failed.pop(node, None)
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
            clients[client] = ClientInfo(num_train, num_test, tuple(map(int, classes.split())), offer.checksum)
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
