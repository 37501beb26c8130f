"""How fast the app is, beside a bare PyTorch loop in the same minutes: `python tests/benchmarks/benchmark.py`.

Every number is printed with its limit, as Markdown. This is not a test: nothing fails on a slow machine.
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from statistics import median

import torch
from breakdown import aggregation_seconds, matmul_rate, mflop_per_image, seconds_of_step, shares_of_training
from inputs import for_clients, tenth
from runs import NODES, Bench, Loop

from fedbabu.config import RunConfig, default_run_config
from fedbabu.training.device import has_amx

MANY, FEW = 10_000, 100  # clients
FLOWERS_CPUS = 2  # of a simulated SuperNode, if nothing else is said
PEERS = {
    "authors": "the authors' code",
    "fl-bench": "FL-bench, with the paper's crops and flips",
    "fl-bench-plain": "FL-bench, without them, as it ships",
    "flower-baseline": "Flower's earlier FedBABU baseline",
}
DECODE = """
import sys, time
from fedbabu.data.dataset import open_dataset
from fedbabu.data.source import DataSpec
started = time.perf_counter()
open_dataset(DataSpec(sys.argv[1]))
print(time.perf_counter() - started)
"""

Line = tuple[str, str, str]  # what, measured, must be


def training_lines(bench: Bench) -> Iterator[Line]:
    """A default round beside the bare loop, the shares of its time, and the projected time of the whole default run."""
    config = RunConfig.from_flower(default_run_config() | {"dataset": bench.dataset})
    loops = {"bare loop, two processes": Loop(bench, config, "bare_loop.py")}
    loops["bare loop that keeps its memory from step to step, two processes"] = Loop(
        bench, config, "bare_loop.py", "keep"
    )

    def bare_rounds() -> list[list[float]]:
        return [[loop.seconds() for loop in loops.values()] for _ in range(3)]

    before = bare_rounds()
    two = bench.flwr_run()
    default = bench.flwr_run(cpus_per_node=FLOWERS_CPUS)
    between = bare_rounds()
    hundred = bench.flwr_run(num_nodes=100)
    after = bare_rounds()
    images = config.clients_per_round * config.num_local_epochs * 500
    for loop, each in zip(loops, zip(*before, *between, *after, strict=True), strict=True):
        loops[loop].close()
        yield loop, f"{median(each):.1f} s a round, {images / median(each):.0f} img/s", ""
    for what, run, beside, allowed in (
        (f"training of a default round, {NODES} SuperNodes with one CPU each", two, before + between, "1.10"),
        (
            f"training of a default round, {NODES} SuperNodes with {FLOWERS_CPUS} CPUs each: no option",
            default,
            before + between,
            "1.10",
        ),
        ("training of a default round, 100 SuperNodes with one CPU each", hundred, between + after, "1.20"),
    ):
        ratios = [run.training / median(each) for each in zip(*beside, strict=True)]
        measured = (
            f"{run.training:.1f} s, **{ratios[0]:.2f} ×** the bare loop and **{ratios[1]:.2f} ×** that which keeps its "
            "memory"
        )
        yield what, measured, f"at most {allowed} ×"

    untrained = bench.app("untrained", clientapp="untrained:app")
    alone = bench.app("flower_alone", serverapp="flower_alone:server", clientapp="flower_alone:client")
    rounds = 4 * bench.num_rounds
    runs = [
        (bench.flwr_run(app=untrained, managed=True, num_server_rounds=rounds),
         bench.flwr_run(app=alone, managed=True, own=False, num_server_rounds=rounds))
        for _ in range(3)
    ]  # fmt: skip
    empty, start = median(ours.whole for ours, _ in runs), median(ours.start for ours, _ in runs)
    flowers_round = median(later - earlier for _, flowers in runs for earlier, later in pairwise(flowers.noted))
    yield (
        "framework cost of a round (nothing trained)",
        f"**{empty:.2f} s** (Flower alone: {flowers_round:.2f} s)", "at most 0.3 s",
    )  # fmt: skip
    yield (
        "from typing `flwr run .` to the first training step",
        f"**{start:.1f} s**, **{median(ours.start - flowers.start for ours, flowers in runs):.1f} s** more than an app "
        "that does nothing", "at most 20 s, 2 s of it ours",
    )  # fmt: skip

    ten = bench.flwr_run(
        dataset=str(tenth(bench.dataset, bench.folder / "tenth")), num_clients=10, fraction_train=1.0,
        num_server_rounds=1, num_finetune_epochs=config.num_finetune_epochs,
    )  # fmt: skip
    memory = max(run.memory for run in (two, default, hundred, ten))
    yield "memory of a worker at its peak, without the shared images", f"**{memory:.0f} MB**", "at most 1,000 MB"
    final = 2 * 10 * ten.rounds[-1].evaluate_seconds  # of the last and of the best round's model
    # That was of the 10,000 test images and, four times, of the 50,000 training images, for the templates.
    initial = two.rounds[-1].evaluate_seconds / 21
    evaluations = (config.num_rounds - 1) // config.evaluate_every
    whole = start + config.num_rounds * two.training + evaluations * initial + final
    gflop = mflop_per_image(config) / 1000
    speed, machine = images / two.training, matmul_rate(NODES)
    yield (
        "the whole default, projected",
        f"**{whole / 60:.0f} min** ({final / 60:.1f} of them the final evaluation)", "",
    )  # fmt: skip
    yield (
        "in training",
        f"{speed:.0f} img/s, {speed * gflop:.0f} GFLOP/s, {100 * speed * gflop / machine:.0f} % of what the machine's "
        f"matrix multiplication does ({machine:.0f} GFLOP/s)", "",
    )  # fmt: skip
    aggregation = aggregation_seconds(config, NODES)
    local = 1 - empty / two.training
    shares = {name: share * local for name, share in shares_of_training(config).items()}
    shares["aggregation"] = aggregation / two.training
    shares["transport"] = (empty - aggregation) / two.training
    shares["rest"] = 1 - sum(shares.values())
    yield "shares of its time", ", ".join(f"{name} {100 * share:.1f} %" for name, share in shares.items()), ""


def sharing_lines(bench: Bench) -> Iterator[Line]:
    """A round of the default federation alone, and of two runs at the same time on the same CPUs."""
    alone = bench.flwr_run(cpus_per_node=FLOWERS_CPUS).training
    together = [run.training for run in bench.flwr_runs_at_once(2, cpus_per_node=FLOWERS_CPUS)]
    yield (
        "training of a default round while another run does the same",
        f"{together[0]:.1f} and {together[1]:.1f} s, **{max(together) / alone:.2f} ×** that of a run alone",
        "at most 2.3 ×",
    )


def precision_lines(bench: Bench) -> Iterator[Line]:
    """A training step with one thread in float32 and in bf16, which is faster where the processor has AMX."""
    config = RunConfig.from_flower(default_run_config() | {"dataset": bench.dataset})
    seconds = {precision: seconds_of_step(config, precision) for precision in ("float32", "bf16")}
    amx = "with" if has_amx() else "without"
    yield (
        f"a training step of {config.batch_size} images with one thread, in float32 and in bf16, {amx} AMX",
        f"{1000 * seconds['float32']:.1f} and {1000 * seconds['bf16']:.1f} ms, bf16 takes "
        f"**{seconds['bf16'] / seconds['float32']:.2f} ×** as long", "",
    )  # fmt: skip


def peer_lines(bench: Bench) -> Iterator[Line]:
    """A default round beside loops that train as other code bases do (peers.py)."""
    config = RunConfig.from_flower(default_run_config() | {"dataset": bench.dataset})
    ours = bench.flwr_run(cpus_per_node=FLOWERS_CPUS).training
    yield "training of a default round, this app", f"{ours:.1f} s", ""
    for name, title in PEERS.items():
        loop = Loop(bench, config, "peers.py", name, num_processes=1)
        seconds = median(loop.seconds() for _ in range(3))
        loop.close()
        yield f"the same work as {title} does it", f"{seconds:.1f} s, **{seconds / ours:.1f} ×** as long", "over 1 ×"


def decoding_lines(bench: Bench) -> Iterator[Line]:
    """The time in which a dataset is opened on a machine for the first time."""
    folders = {name: str(bench.folder / name) for name in ("FEDBABU_CACHE", "HF_DATASETS_CACHE")}
    command = [sys.executable, "-c", DECODE, bench.dataset]
    done = subprocess.run(command, env=os.environ | folders, check=True, stdout=subprocess.PIPE, text=True)
    yield "first-ever decoding of CIFAR-10", f"**{float(done.stdout.split()[-1]):.1f} s**", "at most 15 s"


def scaling_lines(bench: Bench) -> Iterator[Line]:
    """The time of a round with ten of few clients, and with ten of many."""
    seconds = []
    for num_clients in (FEW, MANY):
        digits = for_clients(num_clients, bench.folder / f"digits-{num_clients}")
        measured = bench.flwr_run(
            dataset=str(digits), image_column="image", label_column="label", num_clients=num_clients,
            fraction_train=10 / num_clients, num_server_rounds=2 * bench.num_rounds, num_local_epochs=100,
        )  # fmt: skip
        seconds.append(measured.whole)
    few, many = seconds
    yield (
        f"a round with 10 of {MANY:,} clients, of 20 digits each, for 100 epochs",
        f"{many:.2f} s, **{many / few:.2f} ×** that with 10 of {FEW}", "at most 1.2 ×",
    )  # fmt: skip


PARTS = {
    "training": training_lines,
    "sharing": sharing_lines,
    "precision": precision_lines,
    "peers": peer_lines,
    "decoding": decoding_lines,
    "scaling": scaling_lines,
}


def main() -> None:
    """Measure, and print the table line by line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="cifar10", help="as in the run config: a local copy of CIFAR-10, say")
    parser.add_argument("--rounds", type=int, default=5, help="of each run that is timed; the first is not counted")
    parser.add_argument("--only", choices=PARTS, help="one part of the table")
    given = parser.parse_args()
    software = f"Python {platform.python_version()}, PyTorch {torch.__version__}"
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, {software}\n")
    print("| what | measured | must be |\n| --- | --- | --- |", flush=True)
    with tempfile.TemporaryDirectory(prefix="fedbabu-benchmark-", ignore_cleanup_errors=True) as folder:
        bench = Bench(Path(folder), given.dataset, given.rounds)
        for name, lines in PARTS.items():
            if given.only in (None, name):
                for line in lines(bench):
                    print(f"| {' | '.join(line)} |", flush=True)


if __name__ == "__main__":
    main()
