"""What a run prints: what it is when it starts, one line after each round, and a table in the end."""

import io
from pathlib import Path

from rich.console import Console
from rich.table import Table

from fedbabu.algorithms import AS_IN_THE_CODE
from fedbabu.config import RunConfig
from fedbabu.data.partitions import PARTITIONS
from fedbabu.federation.clients import Federation
from fedbabu.formatting import clients_in_words, counted, format_duration, format_failures, plus_minus
from fedbabu.heartbeat import Heartbeat
from fedbabu.models import SplitNetwork
from fedbabu.runs.checkpoints import Checkpoint
from fedbabu.runs.folder import RunFolder
from fedbabu.runs.privacy import privacy_in_words
from fedbabu.runs.records import METRIC_TITLES, RoundRecord
from fedbabu.runs.time_estimates import Cost

MAX_NOTES = 8  # lines about how data were read
RECENT_ROUNDS = 20  # from which the speed of a run is taken


class Progress:
    """Prints what a run is about to do and what happened in each round, with an estimate of the time left."""

    def __init__(self, config: RunConfig, federation: Federation) -> None:
        self.config = config
        self.federation = federation
        clients = federation.clients.values()
        self.cost = Cost(config, sum(each.num_train for each in clients), sum(each.num_test for each in clients))
        self.rounds: list[RoundRecord] = []  # that are over
        self._heartbeat = Heartbeat()

    def start(self, model: SplitNetwork, path: Path, checkpoint: Checkpoint, resumed: bool) -> None:
        """Print what is about to run and where its results go and, of a resumed run, how much is done already."""
        config, federation = self.config, self.federation
        data = "local data" if federation.local_data else PARTITIONS[config.partition].title(config.partition_spec)
        clients = clients_in_words(len(federation.clients), config.num_clients)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        (_, *given), (_, *taken) = federation.image_shape, model.image_shape
        enlarged = f", images enlarged from {given[0]}×{given[1]} to {taken[0]}×{taken[1]}" if given != taken else ""
        print(
            f"{config.algorithm} on {federation.dataset}: {clients} ({data}), "
            f"{self.cost.num_train} training and {self.cost.num_test} test images\n"
            f"{config.model_name}: {parameters:,} parameters{enlarged}; {self._plan()} on "
            f"{counted(federation.num_nodes, 'SuperNode')} ({', '.join(federation.devices)})\n"
            f"{self._protocol()}{self._notes()}"
            f"Run folder: {path}",
            flush=True,
        )
        self.rounds += checkpoint.history
        if resumed:
            done = checkpoint.server_round
            after = f" after the training of round {done} of {config.num_rounds}" if done else ""
            print(f"Resumed{after}", flush=True)

    def _protocol(self) -> str:
        """A line that says that the run follows the authors' code, with what that fixes; empty for the paper's text."""
        if self.config.protocol != "code":
            return ""
        declared = AS_IN_THE_CODE.get(self.config.algorithm)
        values = self.config.to_flower()
        fixed = [f"{key} = {values[key]}" for key in declared.fixes] if declared else []
        trained = f"; {', '.join(fixed)}" if fixed else ""
        return f"protocol = 'code': as the authors' code, where it is not what the paper says{trained}\n"

    def _notes(self) -> str:
        """Lines about how the nodes read their data, of which the last are counted if there are many."""
        notes = self.federation.notes
        more = [f"… and {len(notes) - MAX_NOTES} more notes of this kind"] if len(notes) > MAX_NOTES else []
        return "".join(f"{note}\n" for note in [*notes[:MAX_NOTES], *more])

    def _plan(self) -> str:
        """How many rounds and epochs the run consists of, in words."""
        config = self.config
        if not config.clients_per_round:
            return f"{counted(config.num_rounds, 'epoch')} on the server; fine-tuning"
        if not config.algorithm_spec.communicates:
            return f"every client alone for {counted(config.num_server_rounds * config.num_local_epochs, 'epoch')}"
        clients, epochs = counted(config.clients_per_round, "client"), counted(config.num_local_epochs, "epoch")
        return f"{counted(config.num_rounds, 'round')} of {clients} × {epochs}"

    def round(self, record: RoundRecord) -> None:
        """Print the line of a round that is over."""
        self.rounds.append(record)
        config, num_clients = self.config, self.config.num_clients
        parts = [f"round {record.round:>{len(str(config.num_rounds))}}/{config.num_rounds}"]
        losses = {"loss": record.train_loss, "loss on the server": record.server_loss}
        parts += [f"{name} {loss:.4f}" for name, loss in losses.items() if loss is not None]
        parts.append(f"{record.seconds:6.1f} s")
        if record.round < config.num_rounds:
            parts.append(f"{format_duration(self._seconds_left(record.round))} left")
        if record.initial_accuracy is not None:
            personal = "accuracy before fine-tuning" if config.total_finetune_epochs else "personalized accuracy"
            name = personal if config.algorithm_spec.keeps else "initial accuracy"
            parts.append(f"{name} {record.initial_accuracy:.2f} %")
        if record.missing:
            covered = clients_in_words(num_clients - len(record.missing), num_clients)
            parts[-1] += f" of {covered}, without {format_failures(record.missing)}"
        if record.test_accuracy is not None:
            parts.append(f"on the whole test set {record.test_accuracy:.2f} %")
        if record.attempts > 1:
            parts.append(f"attempt {record.attempts}")
        if record.failed:
            parts.append(f"left out: {format_failures(record.failed)}")
        self._heartbeat.print("   ".join(parts))

    def clients_done(self, done: int, total: int, seconds_left: float | None) -> None:
        """Print how many clients of a round or an evaluation are done, if nothing was printed for some seconds."""
        left = "" if seconds_left is None else f", {format_duration(seconds_left)} for the others"
        self._heartbeat.beat(f"    {done} of {counted(total, 'client')} done{left}")

    def final_evaluation(self) -> None:
        """Print that the final evaluation begins, and how long it may take."""
        config, seconds = self.config, self._seconds_left(self.config.num_rounds)
        estimate = f" (about {format_duration(seconds)})" if seconds else ""
        epochs = f" for {config.num_finetune_epochs} epochs" if config.total_finetune_epochs else ""
        name = "fine-tuning" if epochs else "evaluating"
        clients = counted(len(self.federation.clients), "client")
        self._heartbeat.print(f"{name} all {clients}{epochs}{estimate} …")

    def _seconds_left(self, finished_rounds: int) -> float:
        """How long the run will take after a number of rounds, at the speed of the latest; 0 if none were trained."""
        speed = self.cost.speed(self.rounds[-RECENT_ROUNDS:])
        return self.cost.left(finished_rounds) / speed if speed else 0.0


def final_report(run: RunFolder) -> str:
    """A finished run's accuracies, mean ± std over clients in percent, beside the paper's for the same setting.

    There is a column for each protocol of which the run has the numbers, and one for the run's own choice of
    accuracies, if that is neither.
    """
    summary = run.summary
    num_clients, paper = summary["num-clients"], summary["paper"]
    columns = {f"as the {name}": means for name, means in summary["accuracy-by-protocol"].items()}
    if run.measurement not in run.protocols.values():
        columns = {"this run": summary["accuracy"], **columns}
    table = Table("Accuracy in %")
    for heading in [*columns, *(["the paper"] if paper else [])]:
        table.add_column(heading, justify="right")
    for metric, ours in summary["accuracy"].items():
        theirs = paper.get(metric)
        cells = [METRIC_TITLES[metric]]
        if ours["num-clients"] != num_clients:  # some clients have no such test images
            cells[0] += f" ({clients_in_words(ours['num-clients'], num_clients)})"
        for means in columns.values():
            shown = means.get(metric)
            difference = f" ({shown['mean'] - theirs['mean']:+.2f})" if shown and theirs else ""
            cells.append(f"{plus_minus(shown['mean'], shown['std'])}{difference}" if shown else "")
        if theirs:
            cells.append(f"{plus_minus(theirs['mean'], theirs['std'])} (Table {theirs['table']})")
        table.add_row(*cells)
    text = io.StringIO()
    Console(file=text, width=100, force_jupyter=False, force_terminal=False).print(table)
    missing = run.missing_clients()
    notes = f", missing {format_failures(missing)}" if missing else ""
    for name, measurement in run.protocols.items():
        if (others := run.missing_clients(measurement)) != missing:
            notes += f"\nAs the {name}, missing {format_failures(others) or 'none'}"
    if failed := summary["failed"]:
        notes += f"\n{failed} times, a client was left out of a round; rounds.jsonl says which, and why"
    return (
        f"\nMean ± std over {run.clients_covered}{notes}{' (difference from the paper)' if paper else ''}\n"
        f"{text.getvalue()}{_protocols_in_words(run)}{privacy_in_words(summary, run.run_config)}"
        f"{format_duration(summary['seconds'])} in all, {summary['evaluate-seconds'] / summary['seconds']:.0%} of it "
        f"evaluating; {sum(run.communication) / 1e6:.1f} MB of shared parameters to clients and back\n"
        f"Run folder: {run.path}"
    )


def _protocols_in_words(run: RunFolder) -> str:
    """What the columns of the final report mean, in a line for each protocol."""
    num_rounds = len(run.rounds)
    last = f"the last of {num_rounds} rounds"
    rounds = {"last": last, "best": f"round {run.summary['best-round']}, the best by test accuracy of {num_rounds}"}
    lines = [
        f"As the {name}: {rounds[each.evaluated_round]}; without head by {each.template_distance} distance from "
        f"templates of {each.template_images} images in {each.template_batches} batches\n"
        for name, each in run.protocols.items()
    ]
    return "".join(lines)
