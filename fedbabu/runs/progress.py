"""What a run says: a line a round while it goes, a table when it ends."""

import io
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from fedbabu.config import RunConfig
from fedbabu.data.partitions import PARTITIONS
from fedbabu.errors import why
from fedbabu.federation.clients import Federation
from fedbabu.models import SplitNetwork
from fedbabu.runs.checkpoints import Checkpoint
from fedbabu.runs.cost import Cost
from fedbabu.runs.folder import RunFolder, clients_covered

LOSSES = {"train-loss": "loss", "server-loss": "loss on the server"}
TITLES = {
    "initial": "Initial",
    "without-head": "Without head",
    "personalized": "Personalized",
    "id-initial": "In-distribution, initial",
    "id-personalized": "In-distribution, personalized",
    "ood-initial": "Out-of-distribution, initial",
    "ood-personalized": "Out-of-distribution, personalized",
}


class Progress:
    """Prints a run's first lines and a line a round, with an estimate of the time left."""

    def __init__(self, config: RunConfig, federation: Federation) -> None:
        self.config = config
        self.federation = federation
        num_train, num_test = (
            sum(getattr(client, split) for client in federation.clients.values()) for split in ("num_train", "num_test")
        )
        self.cost = Cost(config, num_train, num_test)
        self.images = 0.0  # trained on so far,
        self.seconds = 0.0  # and how long that took
        self.done = 0  # rounds

    def start(self, model: SplitNetwork, path: Path, checkpoint: Checkpoint, resumed: bool) -> None:
        """Say what is about to run, where, and where its results go; and what is done already, if anything."""
        config, federation = self.config, self.federation
        setting = "data of their own" if federation.owners else PARTITIONS[config.partition].title(config.to_flower())
        parameters = sum(parameter.numel() for parameter in model.parameters())
        (_, *given), (_, *taken) = federation.image_shape, model.image_shape
        enlarged = f", images enlarged from {given[0]}×{given[1]} to {taken[0]}×{taken[1]}" if given != taken else ""
        _say(
            f"{config.algorithm} on {federation.dataset}: {config.num_clients} clients ({setting}), "
            f"{self.cost.num_train} training and {self.cost.num_test} test images\n"
            f"{config.model_name}: {parameters:,} parameters{enlarged}; {self._rounds()} on {federation.num_nodes} "
            f"SuperNodes ({', '.join(federation.devices)})\n"
            f"Run folder: {path}"
        )
        for record in checkpoint.history:
            self._count(record)
        if resumed:
            done = checkpoint.server_round
            _say(f"Resumed after the training of round {done} of {config.num_rounds}" if done else "Resumed")

    def _rounds(self) -> str:
        config = self.config
        if not config.clients_per_round:
            return f"{config.num_rounds} epochs on the server; fine-tuning"
        if not config.row.shares:
            return f"every client alone for {config.num_server_rounds * config.num_local_epochs} epochs"
        rounds = "1 round" if config.num_rounds == 1 else f"{config.num_rounds} rounds"
        return f"{rounds} of {config.clients_per_round} clients × {config.num_local_epochs} epochs"

    @property
    def _accuracy(self) -> str:
        """What the accuracy of the clients' models is called before they are fine-tuned."""
        if not self.config.row.keeps:
            return "initial accuracy"
        return "accuracy before fine-tuning" if self.config.finetune_epochs else "personalized accuracy"

    def round(self, record: dict[str, Any]) -> None:
        """Print a round's line."""
        self._count(record)
        rounds = self.config.num_rounds
        parts = [f"round {self.done:>{len(str(rounds))}}/{rounds}"]
        parts += [f"{title} {record[key]:.4f}" for key, title in LOSSES.items() if key in record]
        parts.append(f"{record['seconds']:6.1f} s")
        if self.done < rounds:
            parts.append(f"{duration(self._seconds_left())} left")
        if "initial-accuracy" in record:
            parts.append(f"{self._accuracy} {record['initial-accuracy']:.2f} %")
            if record["missing"]:
                num = len(self.federation.clients)
                parts[-1] += f" of {clients_covered(num - len(record['missing']), num)}, not {why(record['missing'])}"
        if "test-accuracy" in record:
            parts.append(f"on the whole test set {record['test-accuracy']:.2f} %")
        if record["attempts"] > 1:
            parts.append(f"attempt {record['attempts']}")
        if record["failed"]:
            parts.append(f"left out: {why(record['failed'])}")
        _say("   ".join(parts))

    def _count(self, record: dict[str, Any]) -> None:
        """Take a round into the estimates of the time left."""
        self.images += self.cost.training(record["round"], record["num-examples"])
        self.seconds += record["train-seconds"]
        self.done = record["round"]

    def fine_tuning(self) -> None:
        """Say that the final evaluation begins, and how long it may take."""
        trained = self.images / self.seconds if self.seconds else 0.0
        about = f" (about {duration(self.cost.fine_tuning / trained)})" if trained else ""
        what = f"fine-tuning all {{}} clients for {self.config.num_finetune_epochs} epochs"
        if not self.config.finetune_epochs:
            what = "evaluating all {} clients"
        _say(f"{what.format(self.config.num_clients)}{about} …")

    def _seconds_left(self) -> float:
        seconds = (self.config.num_rounds - self.done) * self.seconds / self.done
        if self.images:
            seconds += (self.cost.evaluations(self.done) + self.cost.fine_tuning) * self.seconds / self.images
        return seconds


def final_report(run: RunFolder) -> str:
    """A run's accuracies, mean ± std over clients in percent, beside the paper's where it has the same run."""
    summary = run.summary
    table = Table()
    table.add_column("Accuracy in %")
    table.add_column("this run", justify="right")
    if summary["paper"]:
        table.add_column("the paper", justify="right")
        table.add_column("difference", justify="right")
    for metric, ours in summary["accuracy"].items():
        paper = summary["paper"].get(metric)
        of = ours.get("num-clients", summary["num-clients"])  # of so many, since the others lack such images
        partly = "" if of == summary["num-clients"] else f" ({clients_covered(of, summary['num-clients'])})"
        cells = [TITLES[metric] + partly, f"{ours['mean']:.2f} ± {ours['std']:.2f}"]
        if paper:
            cells.append(f"{paper['mean']:.2f} ± {paper['std']:.2f} (Table {paper['table']})")
            cells.append(f"{ours['mean'] - paper['mean']:+.2f}")
        table.add_row(*cells)
    text = io.StringIO()
    Console(file=text, width=100, force_jupyter=False, force_terminal=False).print(table)
    share = summary["evaluate-seconds"] / summary["seconds"]
    missing = {int(client): reason for client, reason in summary.get("missing", {}).items()}
    notes = f", missing {why(missing)}" if missing else ""
    if summary.get("failed"):
        notes += f"\n{summary['failed']} times, a client was left out of a round; rounds.jsonl says which, and why"
    return (
        f"\nMean ± std over {run.covered}{notes}\n{text.getvalue()}"
        f"{duration(summary['seconds'])} in all, {share:.0%} of it evaluating; "
        f"{summary['bytes-sent'] / 1e6:.1f} MB sent to the nodes, {summary['bytes-received'] / 1e6:.1f} MB received\n"
        f"Run folder: {run.path}"
    )


def duration(seconds: float) -> str:
    """A time as people say it: "80 s", "41 min", "3:20 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{timedelta(seconds=round(seconds))}"[:-3] + " h"


def _say(text: str) -> None:
    print(text, flush=True)
