"""The ServerApp: from the configuration to the nodes, the rounds and the report, readable from top to bottom."""
# ruff: noqa: E402

from fedbabu.federation.ray_workers import restart_dead_workers

restart_dead_workers()  # before the imports below, which take seconds: meanwhile Flower starts Ray

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from flwr.app import ArrayRecord, ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp

from fedbabu.algorithms import TrainedOn
from fedbabu.config import GivenKeys, RunConfig, check_keys_are_read
from fedbabu.errors import ConfigError, NotResumableError, RunError
from fedbabu.federation.clients import Federation
from fedbabu.federation.discovery import discover
from fedbabu.formatting import counted
from fedbabu.reproduction.paper import accuracy_by_finetune_epoch, find_cells
from fedbabu.runs.checkpoints import Checkpoint, Checkpoints
from fedbabu.runs.files import check_writable, marked, remove_unfinished_files
from fedbabu.runs.folder import RunFolder
from fedbabu.runs.initial_model import open_initial_model
from fedbabu.runs.loggers import check_logger, open_logger
from fedbabu.runs.privacy import check_accountant, privacy_spent
from fedbabu.runs.progress import Progress, final_report
from fedbabu.runs.resume import check_resumable, check_same_clients, resumed_config, runtime_overrides
from fedbabu.strategy import SharedPartFedAvg
from fedbabu.training.diagnostics import body_features
from fedbabu.training.server_training import ServerTrainer

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run one experiment, or what is left of it, from its configuration to its report."""
    with _sentences_only(), ExitStack() as until_the_end:
        # The configuration, which is that of the earlier run if one is resumed.
        given = GivenKeys.from_flower(context.run_config)
        if given.resume:
            run = check_resumable(given.resume)
            until_the_end.enter_context(run.locked())
            config = resumed_config(given, run.config)
        else:
            config = RunConfig.from_flower(context.run_config)
            check_keys_are_read(config)
            check_writable(config.results_folder, f"results-dir = '{config.results_dir}'")
        check_logger(config.logger)
        check_accountant(config)

        # The clients, and the nodes that can serve them.
        clients = counted(config.num_clients, "client")
        print(f"Looking for {clients}; SuperNodes without data of their own read '{config.dataset}' …", flush=True)
        with marked(run.path if given.resume else config.results_folder) as marker:
            class_names = run.recorded.get("class-names", ()) if given.resume else ()
            federation = discover(grid, config, tuple(class_names), marker)
        _check_data_on_server(config, federation)

        # The model and the run folder: new, or where the earlier run stopped.
        if given.resume:
            check_same_clients(run, federation)
            checkpoints = Checkpoints(run.path).usable()
            model = open_initial_model(config, federation, checkpoints[0].model)
        else:
            model = open_initial_model(config, federation)
        server_trainer = ServerTrainer.open(config, model) if config.part_trained_on_server else None
        if not given.resume:
            checkpoints = [Checkpoint.start(model)]
            run = RunFolder.create(config, federation, checkpoints[0])
            until_the_end.enter_context(run.locked())
        remove_unfinished_files(run.path)
        run.write_rounds(checkpoints[0].history)  # without later ones

        # The rounds, with the final evaluation in the last of them.
        progress = Progress(config, federation)
        progress.start(model, run.path, checkpoints[0], resumed=bool(given.resume))
        log = until_the_end.enter_context(open_logger(config.logger, run, len(run.rounds) + 1))
        strategy = SharedPartFedAvg(config, federation, run, checkpoints, progress, log, server_trainer)
        with _resumable_if_it_stops(strategy):
            strategy.start(
                grid,
                initial_arrays=ArrayRecord(strategy.global_model),
                num_rounds=config.num_rounds,
                timeout=config.client_timeout,
                train_config=ConfigRecord(config.to_flower()),
            )

            # The results, beside the paper's numbers.
            last, best, best_round = strategy.evaluation, strategy.best_evaluation, strategy.best_rounds.overall
            run.write_clients(last.results, federation)
            if best.results:
                run.write_clients(best.results, federation, best=True)
            if last.similarity:
                run.write_similarity(last.similarity)
            if "features" in config.diagnostics:
                run.write_features(*body_features(model, strategy.global_model, config))
            paper = find_cells(config.to_flower(), run.dataset)
            run.summarize(
                {"last": last.missing, "best": best.missing if best.results else last.missing},
                {metric: {"mean": cell.mean, "std": cell.std, "table": cell.table} for metric, cell in paper.items()},
                best_round.server_round if best_round else None,
                privacy_spent(config, run.path),
            )
            means = {f"final/{metric}": ours["mean"] for metric, ours in run.summary["accuracy"].items()}
            log({"round": config.num_rounds} | means)
            from fedbabu.plots.accuracy import save_plots  # not at the start, because matplotlib takes long to import

            save_plots(run, accuracy_by_finetune_epoch)
            run.write_summary()
        print(final_report(run), flush=True)
        with suppress(OSError):
            Checkpoints(run.path).clean_up(strategy.final_client_states)


def _check_data_on_server(config: RunConfig, federation: Federation) -> None:
    """Raise a ConfigError if a key needs the clients' images on the server, but nodes have local data."""
    if not federation.local_data:
        return
    if any(phase.trains_on is not TrainedOn.TRAINING_IMAGES for phase in config.algorithm_spec.personalizes):
        raise ConfigError(
            f"protocol = 'code' with algorithm = '{config.algorithm}' adapts clients to another client's images, but "
            "the SuperNodes have local data: protocol must be 'text'."
        )
    needs = "needs the clients' images on the server, but the SuperNodes have local data"
    if "features" in config.diagnostics:
        raise ConfigError(f"record = '{config.record}' {needs}: remove 'features' from it.")
    if config.server_data_fraction:
        raise ConfigError(f"server-data-fraction = {config.server_data_fraction} {needs}: it must be 0.0.")


@contextmanager
def _resumable_if_it_stops(strategy: SharedPartFedAvg) -> Iterator[None]:
    """If the run stops early, save a checkpoint of what it has so far and print the command that resumes it."""
    try:
        yield
    except Exception as error:
        with suppress(OSError):
            strategy.save_checkpoint()
        if not isinstance(error, NotResumableError):
            overrides = f"resume='{strategy.run.path}'{runtime_overrides(strategy.config)}"
            print(f'The run stopped. To resume it: flwr run . --stream --run-config "{overrides}"', flush=True)
        raise


@contextmanager
def _sentences_only() -> Iterator[None]:
    """Of Flower's log show only warnings, and of our own errors only the sentence, without a traceback.

    The filter stays after the run, because Flower logs an error only when this app has ended.

    Raises:
        RunError: Instead of an OSError.
    """
    logger = logging.getLogger("flwr")
    level = logger.level
    logger.addFilter(_without_traceback)
    logger.setLevel(logging.WARNING)
    try:
        yield
    except OSError as error:
        raise RunError(f"The run stopped at a file that it cannot use: {error}.") from error
    finally:
        logger.setLevel(level)


def _without_traceback(record: logging.LogRecord) -> bool:
    """A logging filter that lets every record through and removes the traceback of our own errors."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, ConfigError | RunError):
        record.msg, record.args, record.exc_info = str(error), (), None
    return True
