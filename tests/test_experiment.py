"""What the experiments of conf/ ask for, which runs that takes, and what a report makes of the runs that there are."""

import csv
import json
import re
import shlex
from math import sqrt

import numpy as np
import pytest
from conftest import PROJECT
from in_process import run_server

from fedbabu.algorithms import ALGORITHMS
from fedbabu.config import RunConfig, default_run_config
from fedbabu.data.known import KNOWN_DATASETS
from fedbabu.errors import ConfigError
from fedbabu.models import MODELS
from fedbabu.reproduction import sweep
from fedbabu.reproduction.comparison import claims, entries
from fedbabu.reproduction.composition import CONF
from fedbabu.reproduction.experiment import Experiment
from fedbabu.reproduction.paper import cells, tables
from fedbabu.reproduction.report import main as report
from fedbabu.runs.cost import Cost
from fedbabu.runs.folder import RunFolder

# Of each table, its cells and the runs that they take: one has a cell for every metric and every epoch of fine-tuning,
# what trains alone does not depend on f and τ, and LG-FedAvg starts from FedAvg's.
CELLS_AND_RUNS = {
    1: (36, 18), 2: (30, 15), 3: (72, 36), 4: (54, 54), 5: (144, 129), 6: (36, 4), 7: (36, 18), 8: (0, 0), 9: (36, 6),
    10: (48, 24), 11: (72, 36), 12: (72, 36), 13: (144, 129), 14: (90, 90), 15: (90, 90), 16: (36, 18), 17: (36, 18),
    18: (16, 16), 19: (24, 24), 20: (96, 24), 21: (18, 9), 22: (36, 18), 23: (12, 12), 24: (36, 18), 25: (105, 105),
}  # fmt: skip
FIGURES_RUNS = {2: 3, 3: 5, 4: 3, 5: 5, 6: 3, 7: 5, 8: 3, 9: 5, 12: 2, 13: 6, 15: 4, 16: 4}


@pytest.mark.parametrize("number", CELLS_AND_RUNS)
def test_a_tables_experiment_has_exactly_the_papers_cells(number):
    experiment = Experiment.compose([f"experiment=table{number:02}"])
    assert [(dict(cell.of), cell.metric) for cell in experiment.cells] == [(c.of, c.metric) for c in cells(number)]
    assert [cell.printed for cell in experiment.cells] == list(cells(number))
    assert (len(experiment.cells), len(sweep.plan(experiment))) == CELLS_AND_RUNS[number]


@pytest.mark.parametrize("number", FIGURES_RUNS)
def test_a_figures_experiment_has_its_runs(number):
    experiment = Experiment.compose([f"experiment=figure{number:02}"])
    assert len(sweep.plan(experiment)) == FIGURES_RUNS[number]


@pytest.mark.parametrize(
    ("group", "names"), [("algorithm", ALGORITHMS), ("dataset", KNOWN_DATASETS), ("model", MODELS)]
)
def test_what_the_package_knows_by_name_is_an_option(group, names):
    """Without a file for it."""
    for name in names:
        overrides = [f"{group}={name}", *(["run.initial-model=/x"] if name == "lg-fedavg" else [])]
        (cell,) = Experiment.compose(overrides).cells
        assert cell.config["model-name" if group == "model" else group] == name


def test_every_experiment_is_of_a_table_or_figure():
    assert {path.stem for path in (CONF / "experiment").iterdir()} == {
        *(f"table{number:02}" for number in tables()),
        *(f"figure{number:02}" for number in FIGURES_RUNS),
    }


def asked(*overrides):
    return [cell.label for cell in Experiment.compose(overrides).cells]


def test_overrides_narrow_a_table():
    chosen = asked("experiment=table13", "cells.s=2", "cells.tau=4", "cells.f=0.1", "algorithm=fedbabu,fedavg")
    assert chosen == ["fedbabu, s = 2, f = 0.1, τ = 4", "fedavg, s = 2, f = 0.1, τ = 4"]
    assert len(asked("experiment=table13", "cells.s=[2,5]", "cells.algorithm=ditto")) == 12
    assert asked("experiment=table02", "cells.s=10", "cells.server-part=body")[0] == "fedavg, p = 0.0, s = 10"


def test_a_sweep_of_ones_own():
    experiment = Experiment.compose(
        ["algorithm=fedavg,fedbabu", "run.momentum=0.5,0.9", "seeds=[1,2]", "dataset=digits"]
    )
    assert [cell.label for cell in experiment.cells] == [
        "fedavg, m = 0.5", "fedavg, m = 0.9", "fedbabu, m = 0.5", "fedbabu, m = 0.9",
    ]  # fmt: skip
    runs = sweep.plan(experiment)
    assert {(run.config["algorithm"], run.config["momentum"], run.config["seed"]) for run in runs} == {
        (algorithm, momentum, seed) for algorithm in ("fedavg", "fedbabu") for momentum in (0.5, 0.9) for seed in (1, 2)
    }
    assert all(run.config["dataset"] == "digits" for run in runs)


def test_the_protocol_is_the_papers_whatever_the_users_defaults(monkeypatch):
    from fedbabu.reproduction import composition

    changed = composition.default_run_config() | {"learning-rate": 0.5, "num-finetune-epochs": 9}
    monkeypatch.setattr(composition, "default_run_config", lambda: changed)
    (cell,) = Experiment.compose(["experiment=table13", *ONE_CELL]).cells
    assert (cell.config["learning-rate"], cell.config["num-finetune-epochs"], cell.config["num-server-rounds"]) == (
        0.1, 5, 80,
    )  # fmt: skip
    (own,) = Experiment.compose([]).cells
    assert own.config["learning-rate"] == 0.5


ONE_CELL = ("cells.s=2", "cells.f=0.1", "cells.tau=4", "algorithm=fedbabu")


def test_a_cell_in_another_setting_is_not_the_papers():
    (cell,) = Experiment.compose(["experiment=table13", *ONE_CELL]).cells
    assert cell.printed.mean == 87.85
    for change in ("run.num-clients=50", "total-epochs=160", "dataset=digits", "run.momentum=0.5"):
        (cell,) = Experiment.compose(["experiment=table13", *ONE_CELL, change]).cells
        assert cell.printed is None
    (cell,) = Experiment.compose(["experiment=table13", *ONE_CELL, "data.cifar10=/data/cifar10"]).cells
    assert cell.printed.mean == 87.85
    assert cell.config["dataset"] == "/data/cifar10"


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["experiment=table13", "cells.s=3"], "Table 13 has no cell with shards-per-client = 3: it has 10, 5, 2."),
        (["experiment=table99"], "Could not find 'experiment/table99' Available options in 'experiment': figure02"),
        (["experiment=table13", "cells.q=1"], "There is no key cells.q to override"),
        (["run.learning-rat=1"], "There is no key run.learning-rat to override"),
        (["run.learning-rate=-1"], "learning-rate = -1.0 is not allowed: it must be a number above 0."),
        (
            ["experiment=table13", "run.num-local-epochs=1"],
            "the cells of this experiment differ in it: give cells.tau.",
        ),
        (["experiment=table12,table13"], "A sweep has one experiment, but several were asked for"),
        (["experiment=figure02,figure06"], "A sweep has one experiment, but several were asked for"),
        (["run.seed=7"], "seed is not for a single run of a sweep: give seeds=[1,2]."),
        (["+cells.seed=[1,2]"], "seed is not for a single run of a sweep"),
        (["run.results-dir=/x"], "results-dir is not for a single run of a sweep"),
        (["run.resume=/x"], "resume is not for a single run of a sweep"),
        (["run={num-server-rounds:8}"], "gives several keys: give each on its own"),
        (
            ["experiment=table13", "++run.shards-per-client=5"],
            "the cells of this experiment differ in it: give cells.s.",
        ),
        (["experiment=table13", "+cells.momentum=0.9"], "Table 13 does not vary momentum: give run.momentum."),
        (["experiment=table13", "cells.s=[]"], "cells.s = [] is not allowed: it must be a value or several."),
        (["seeds=[]"], "seeds = [] is not allowed"),
        (["cells=null"], "cells = None is not allowed"),
        (["run=null"], "run = None is not allowed"),
        (["~run.algorithm"], "run.algorithm = None is not allowed: it must be there."),
        (["table=99"], "table = 99 is not allowed: it must be null or a number from 1 to 25."),
        (["total-epochs=abc"], "total-epochs = 'abc' is not allowed"),
        (["results-dir=5"], "results-dir = 5 is not allowed"),
        (["results-dir='~nouser/x'"], "results-dir = '~nouser/x' is not allowed"),
        (["algorithm=glob(fed*)"], "is no override"),
        (["federation.client-resources-num-cpus=0"], "client-resources-num-cpus = 0 is not allowed"),
        (["federation.num-supernodes=abc"], "num-supernodes = 'abc' is not allowed"),
        (["experiment=table13", "total-epochs=7"], "total-epochs = 7 is no multiple of num-local-epochs = 4"),
        (["table13"], "'table13' is no override: it must be like cells.s=2"),
        (["cells.s=[2"], "'cells.s=[2' is no override"),
        (["run.initial-model=a", "run.head-init=similar"], "both say where the head starts"),
    ],
)
def test_bad_overrides_are_one_sentence(overrides, sentence, capsys):
    with pytest.raises(ConfigError) as error:
        Experiment.compose(overrides)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)
    assert sweep.main([*overrides, "--dry-run"]) == report(overrides) == 1
    assert capsys.readouterr().err == f"{error.value}\n" * 2


def test_lg_fedavg_comes_after_the_run_that_it_starts_from():
    runs = sweep.plan(Experiment.compose(["experiment=table13", "cells.s=2", "algorithm=lg-fedavg", "seeds=[3,4]"]))
    assert len(runs) == 24
    for place, run in enumerate(runs):
        if run.start:
            assert run.start in runs[:place]
            assert run.start.config == run.config | {"algorithm": "fedavg"}
    assert sum(run.start is not None for run in runs) == 12


@pytest.mark.parametrize(
    ("cpus", "gpus", "federation", "expected"),
    [
        (2, 0, "machine", (2, 0)),
        (64, 0, "machine", (64, 0)),
        (16, 1, "machine", (4, 0.25)),
        (16, 8, "machine", (16, 0.5)),
        (2, 1, "machine", (2, 0.5)),
        (16, 1, "node-per-client", (100, 0.25)),
    ],
)
def test_the_federation_fits_on_the_machine(monkeypatch, cpus, gpus, federation, expected):
    monkeypatch.setattr(sweep.os, "sched_getaffinity", lambda _: range(cpus), raising=False)
    monkeypatch.setattr(sweep.torch.cuda, "device_count", lambda: gpus)
    resolved = sweep.federation_config(Experiment.compose([f"federation={federation}"]).federation, 100)
    assert (resolved["num-supernodes"], resolved["client-resources-num-gpus"]) == expected
    assert resolved["client-resources-num-cpus"] == 1


def test_what_a_run_costs():
    """The default: 80 rounds of 10 clients × 4 epochs × 500 images, and 5 epochs of fine-tuning of all."""
    cost = Cost(RunConfig.from_flower(default_run_config()), 50_000, 10_000)
    assert cost.training(1, 5_000) == 20_000
    assert cost.evaluations(0) == pytest.approx(7 * 10_000 / 3)
    assert cost.evaluations(30) == pytest.approx(4 * 10_000 / 3)
    assert cost.fine_tuning == pytest.approx(5 * 50_000 + 50_000 / 3 + 6 * 10_000 / 3)
    assert cost.whole == pytest.approx(80 * 20_000 + cost.evaluations(0) + cost.fine_tuning)
    alone = RunConfig.from_flower(default_run_config() | {"algorithm": "local-only", "evaluate-every": 0})
    assert Cost(alone, 50_000, 10_000).whole == pytest.approx(320 * 50_000 + (50_000 + 10_000) / 3)


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A real run."""
    short = {"dataset": "digits", "num-clients": 5, "num-server-rounds": 1, "num-local-epochs": 1}
    return run_server(default_run_config() | short | {"results-dir": str(tmp_path_factory.mktemp("template"))})[0]


@pytest.fixture
def folders(template, tmp_path):
    """Makes run folders of any configuration with any accuracies."""
    recorded = json.loads((template.path / "config.json").read_text())
    client = template.clients[0]

    def make(name, overrides, accuracies, seed=42, dataset=None):
        """Accuracies of every client after 0, 1, … epochs, in percent."""
        (cell,) = Experiment.compose(overrides).cells
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        config = dict(cell.config) | {"seed": seed}
        content = recorded | {"run-config": config, "dataset": dataset or tables()[13]["dataset"]}
        (folder / "config.json").write_text(json.dumps(content))
        (folder / "summary.json").write_text(json.dumps({"missing": {}}))
        lines = [
            client | {"client": number, "accuracy": list(values), "without-head-accuracy": values[0] / 2}
            for number, values in enumerate(accuracies)
        ]
        (folder / "clients.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return RunFolder(folder)

    make.results = tmp_path / "runs"
    return make


def ramp(mean, num_clients=100, epochs=6):
    """Clients' accuracies around a mean, after every epoch; the last one is that mean ± 5."""
    return [
        [mean - epochs + 1 + epoch + (5 if client % 2 else -5) for epoch in range(epochs)]
        for client in range(num_clients)
    ]


TABLE13 = ("experiment=table13", "cells.s=2", "cells.f=0.1", "cells.tau=4")


def test_a_report_has_ours_beside_the_papers(folders, capsys):
    one_cell = lambda algorithm: [*TABLE13, f"algorithm={algorithm}"]  # noqa: E731
    folders("a-babu", one_cell("fedbabu"), ramp(88.0))
    folders("b-babu", one_cell("fedbabu"), ramp(90.0), seed=7)
    folders("c-babu-again", one_cell("fedbabu"), ramp(89.0), seed=7)
    folders("d-avg", one_cell("fedavg"), ramp(80.0))
    folders("e-of-another-setting", [*one_cell("fedper"), "run.momentum=0.5"], ramp(70.0))
    (folders("f-unfinished", one_cell("fedrep"), ramp(70.0)).path / "summary.json").unlink()
    overrides = [*TABLE13, f"results-dir={folders.results}"]
    found = {entry.of["algorithm"]: entry for entry in entries(Experiment.compose(overrides))}
    babu, avg = found["fedbabu"], found["fedavg"]
    assert (babu.mean, babu.std, len(babu.runs)) == (88.5, 5.0, 2)  # of each seed, the newest run
    assert babu.spread == pytest.approx(np.std([88.0, 89.0], ddof=1))
    assert (babu.paper_mean, babu.difference) == (87.85, pytest.approx(0.65))
    assert not babu.outside
    assert (avg.mean, avg.paper_mean) == (80.0, 85.94)
    assert avg.outside  # 5.94 is more than 2 · 10.72 / √100
    assert [name for name, entry in found.items() if entry.mean is None] == [
        "fedper", "lg-fedavg", "fedrep", "per-fedavg", "ditto", "local-only",
    ]  # fmt: skip
    assert report(overrides) == 0
    name = "table13-cells.s=2-cells.f=0.1-cells.tau=4"
    shown = capsys.readouterr().out
    for text in ("88.50 ± 5.00", "87.85 ± 8.57", "+0.65", "-5.94 !", "2 of 8 cells have runs, of 1 to 2 seeds."):
        assert text in shown
    assert "1 of 2 differ (!)" in " ".join(shown.split())
    assert (folders.results / "reports" / f"{name}-beside-the-paper.png").read_bytes().startswith(b"\x89PNG")
    markdown = (folders.results / "reports" / f"{name}.md").read_text()
    assert "| 2 | 0.1 | 4 | ours<br>paper<br>difference | 88.50 ± 5.00<br>87.85 ± 8.57<br>+0.65 |" in markdown
    assert "| <br>86.84 ± 10.20<br> |" in markdown
    with (folders.results / "reports" / f"{name}.csv").open() as file:
        rows = {row["algorithm"]: row for row in csv.DictReader(file)}
    assert float(rows["fedbabu"]["mean"]) == 88.5
    assert (rows["fedbabu"]["runs"], rows["fedbabu"]["num-seeds"]) == ("a-babu c-babu-again", "2")
    assert (rows["fedper"]["mean"], rows["fedper"]["paper-mean"], rows["fedper"]["runs"]) == ("", "86.84", "")


def test_what_is_allowed_grows_with_the_spread_over_seeds(folders):
    for seed, mean in ((1, 80.0), (2, 84.0)):
        folders(f"avg-{seed}", [*TABLE13, "algorithm=fedavg"], ramp(mean), seed=seed)
    (entry,) = entries(Experiment.compose([*TABLE13, "algorithm=fedavg", f"results-dir={folders.results}"]))
    assert 2 * 10.72 / sqrt(100) < abs(entry.difference) < 2 * 10.72 / sqrt(100) + np.std([80.0, 84.0], ddof=1)
    assert not entry.outside


def test_other_data_do_not_stand_beside_the_papers(folders):
    few = tables()[13]["dataset"] | {"num-train-examples": 100}
    folders("few", [*TABLE13, "algorithm=fedavg"], ramp(80.0), dataset=few)
    (entry,) = entries(Experiment.compose([*TABLE13, "algorithm=fedavg", f"results-dir={folders.results}"]))
    assert (entry.mean, entry.paper_mean) == (80.0, None)


def test_one_run_has_the_accuracy_after_every_epoch_of_fine_tuning(folders):
    table6 = ["experiment=table06", "cells.s=10", "algorithm=fedbabu"]
    folders("long", [*table6, "cells.tau_f=20"], ramp(70.0, epochs=21), dataset=tables()[6]["dataset"])
    found = entries(Experiment.compose([*table6, f"results-dir={folders.results}"]))
    assert [(entry.of["num-finetune-epochs"], entry.mean) for entry in found] == [
        (epochs, 50.0 + epochs) for epochs in (0, 1, 2, 3, 4, 5, 10, 15, 20)
    ]
    # It is the run of Table 5's cell too, where the paper fine-tunes for 5 epochs.
    table5 = ["experiment=table05", "cells.s=10", "cells.f=0.1", "cells.tau=10", "algorithm=fedbabu"]
    (entry,) = entries(Experiment.compose([*table5, f"results-dir={folders.results}"]))
    assert entry.mean == 55.0


def test_what_trains_alone_is_one_run_for_all_f_and_tau(folders):
    alone = ["experiment=table13", "cells.s=2", "algorithm=local-only"]
    folders("alone", [*alone, "cells.f=0.1", "cells.tau=4"], ramp(90.0))
    found = entries(Experiment.compose([*alone, f"results-dir={folders.results}"]))
    assert [entry.mean for entry in found] == [90.0] * 6


def means(*overrides):
    return [entry.mean for entry in entries(Experiment.compose(overrides))]


def rewrite(run, **changes):
    """Change a run's configuration; None takes a key out."""
    file = run.path / "config.json"
    content = json.loads(file.read_text())
    for key, value in changes.items():
        content["run-config"][key.replace("_", "-")] = value
        if value is None:
            del content["run-config"][key.replace("_", "-")]
    file.write_text(json.dumps(content))


def test_what_an_older_run_does_not_say_is_not_everything(folders):
    """Keys that came later meant what they do by default; without one of the first, a run is none."""
    asked = ["experiment=table15", "cells.s=2", "cells.f=0.1", "cells.tau=4", "algorithm=fedbabu"]
    run = folders("old", [*TABLE13, "algorithm=fedbabu"], ramp(88.0))
    rewrite(run, trained_blocks=None, partition=None, server_data_fraction=None, head_init=None)
    assert means(*asked, f"results-dir={folders.results}") == [None, None, None, 88.0]
    rewrite(run, num_clients=None)
    assert means(*asked, f"results-dir={folders.results}") == [None] * 4


def test_a_part_of_the_data_is_not_the_whole(folders):
    avg = [*TABLE13, "algorithm=fedavg"]
    folders("a", avg, ramp(80.0))
    part = folders("b", avg, ramp(30.0), dataset=tables()[13]["dataset"] | {"num-train-examples": 5_000})
    rewrite(part, dataset="/data/part")
    assert means(*avg, f"results-dir={folders.results}") == [80.0]
    coarse = folders("c", avg, ramp(20.0))
    rewrite(coarse, label_column="coarse_label")
    assert means(*avg, f"results-dir={folders.results}") == [80.0]
    (run,) = sweep.plan(Experiment.compose([*avg, f"results-dir={folders.results}"]))
    assert run.folder().path.name == "a"
    columns = ["dataset=cifar100", "run.label-column=fine_label,coarse_label"]
    assert len(sweep.plan(Experiment.compose(columns))) == 2


def test_the_same_data_may_lie_anywhere(folders, tmp_path):
    avg = [*TABLE13, "algorithm=fedavg", f"results-dir={folders.results}"]
    (tmp_path / "cifar").mkdir()
    rewrite(folders("a", [*TABLE13, "algorithm=fedavg"], ramp(80.0)), dataset=str(tmp_path / "cifar"))
    assert means(*avg) == means(*avg, f"data.cifar10={tmp_path}/cifar/") == means(*avg, "data.cifar10=/x") == [80.0]
    (cell,) = Experiment.compose([*avg, "data.cifar10=digits"]).cells
    assert cell.printed is None


def test_lg_fedavg_from_any_file_is_not_the_papers(folders):
    lg = [*TABLE13, "algorithm=lg-fedavg"]
    run = folders("lg", lg, ramp(47.0))
    rewrite(run, initial_model="/runs/fedavg")
    assert means(*lg, f"results-dir={folders.results}") == [47.0]
    rewrite(run, initial_model="/x/any.safetensors")
    assert means(*lg, f"results-dir={folders.results}") == [None]


def test_what_trains_alone_must_have_the_same_schedule(folders):
    alone = ["dataset=digits", "algorithm=local-only", "run.num-clients=10"]
    three = [*alone, "run.num-local-epochs=4", "run.num-server-rounds=3"]
    folders("three", three, ramp(90.0), dataset={"name": "digits", "num-classes": 10, "num-train-examples": 1440})
    twelve = [*alone, "run.num-local-epochs=1", "run.num-server-rounds=12", f"results-dir={folders.results}"]
    assert means(*three, f"results-dir={folders.results}")[-1] == 90.0
    assert set(means(*twelve)) == {None}


def test_what_a_run_does_not_read_does_not_hide_it(folders):
    folders("ditto", [*TABLE13, "algorithm=ditto", "run.num-finetune-epochs=1", "run.client-column=x"], ramp(55.0))
    assert means(*TABLE13, "algorithm=ditto", f"results-dir={folders.results}") == [55.0]


@pytest.mark.parametrize(
    ("file", "text"),
    [
        *(("config.json", text) for text in ("{", "{}", "[]", "null")),
        *(("summary.json", text) for text in ("", "[]")),
        *(("clients.jsonl", text) for text in ("", "{\n", "{}\n", None)),
        *(("rounds.jsonl", text) for text in ("{\n", "{}\n", "1\n")),
    ],
)
def test_an_odd_folder_counts_for_nothing(folders, file, text):
    folders("good", [*TABLE13, "algorithm=fedavg"], ramp(80.0))
    odd = folders("odd", [*TABLE13, "algorithm=fedavg"], ramp(30.0), seed=7)
    (odd.path / file).write_text(text) if text is not None else (odd.path / file).unlink()
    overrides = [*TABLE13, "algorithm=fedavg", f"results-dir={folders.results}"]
    assert means(*overrides) == [80.0]
    assert sweep.main([*overrides, "--dry-run"]) == report(overrides) == 0
    assert report(["experiment=table08", f"results-dir={folders.results}"]) == 0


@pytest.mark.parametrize("change", [{"algorithm": "fedfoo"}, {"partition": "foo"}, {"momentum": 2.0}, {"old_key": 1}])
def test_a_run_of_another_version_counts_for_nothing(folders, change):
    rewrite(folders("odd", [*TABLE13, "algorithm=fedavg"], ramp(30.0)), **change)
    overrides = [*TABLE13, "algorithm=fedavg", f"results-dir={folders.results}"]
    assert means(*overrides) == [None]
    assert sweep.main([*overrides, "--dry-run"]) == 0


def test_a_run_that_cannot_be_resumed_is_begun_anew(folders):
    begun = folders("begun", [*TABLE13, "algorithm=fedavg"], ramp(30.0))
    (begun.path / "summary.json").unlink()
    (run,) = sweep.plan(Experiment.compose([*TABLE13, "algorithm=fedavg", f"results-dir={folders.results}"]))
    assert run.folder() is None  # it has no checkpoint


def test_several_values_of_anything_are_told_apart():
    assert asked("total-epochs=8,16") == ["fedbabu, num-server-rounds = 2", "fedbabu, num-server-rounds = 4"]
    assert len(asked(*TABLE13, "seeds=1,2")) == 8
    assert asked("+cells.momentum=0.5,0.9") == ["fedbabu, m = 0.5", "fedbabu, m = 0.9"]


def test_cells_without_runs_are_shown_blank(folders, capsys):
    digits = {"name": "digits", "num-classes": 10, "num-train-examples": 1440}
    own = ["dataset=digits", "run.num-clients=10"]
    folders("avg", [*own, "algorithm=fedavg"], ramp(80.0), dataset=digits)
    assert report([*own, "algorithm=fedavg,fedbabu", f"results-dir={folders.results}"]) == 0
    shown = capsys.readouterr().out
    assert "│ fedbabu" in shown
    assert "3 of 6 cells have runs." in shown
    assert report(["experiment=figure02", f"results-dir={folders.results}"]) == 0
    assert "0 of 3 cells have runs." in capsys.readouterr().out


def test_names_in_brackets_are_shown_as_they_are(folders, capsys):
    assert sweep.main(["+cells.dataset=['/a/[/b]',digits]", "--dry-run", f"results-dir={folders.results}"]) == 0
    assert "dataset = /a/[/b]" in capsys.readouterr().out


def test_a_narrowed_report_does_not_overwrite_the_whole(folders):
    report(["experiment=table13", f"results-dir={folders.results}"])
    report([*TABLE13, f"results-dir={folders.results}"])
    written = {path.name: len(path.read_text().splitlines()) for path in folders.results.glob("reports/*.csv")}
    assert written == {"table13.csv": 145, "table13-cells.s=2-cells.f=0.1-cells.tau=4.csv": 9}


def test_who_wins_line_by_line(folders):
    for algorithm, mean in {"fedbabu": 88.0, "fedavg": 89.0}.items():
        folders(algorithm, [*TABLE13, f"algorithm={algorithm}"], ramp(mean))
    both = [*TABLE13, "algorithm=fedbabu,fedavg", f"results-dir={folders.results}"]
    (line,) = claims(entries(Experiment.compose(both)), ["algorithm"])
    assert (line.winner, line.ours, line.close) == ("fedbabu", "fedavg", True)  # 1 point apart, standard errors of 0.5
    (line,) = claims(entries(Experiment.compose([*TABLE13, f"results-dir={folders.results}"])), ["algorithm"])
    assert (line.winner, line.ours) == ("local-only", None)  # which has no run


def test_a_run_tells_how_large_the_datasets_are(capsys, folders):
    """Table 8 has no accuracies."""
    folders("one", [*TABLE13, "algorithm=fedavg"], ramp(80.0))
    assert report(["experiment=table08", f"results-dir={folders.results}"]) == 0
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["│", "cifar10", "│", "train", "│", "50000", "│", "50000", "│", "0", "│"] in shown
    assert ["│", "cifar100", "│", "train", "│", "│", "50000", "│", "│"] in shown


def commands(text):
    """The words of each sweep and report in a text, as a shell gives them; a line may set a variable."""
    variables = {}
    for line in text.splitlines():
        if line.startswith(
            ("python -m fedbabu.reproduction.sweep experiment=", "python -m fedbabu.reproduction.report experiment=")
        ):
            words = shlex.split(line, comments=True)[3:]
            for name, value in variables.items():  # "$name" is a word, $name is several
                words = [value if word == f"${name}" and f'"${name}"' in line else word for word in words]
                words = [part for word in words for part in (value.split() if word == f"${name}" else [word])]
            yield line, [word for word in words if not word.startswith("--")]
        elif found := re.fullmatch(r"(\w+)=((['\"]).*\3)", line):
            variables[found[1]] = shlex.split(found[2])[0]


@pytest.mark.parametrize("page", ["README.md", "_static/README.md"])
def test_what_a_page_says_to_type_are_experiments(page):
    lines = list(commands((PROJECT / page).read_text(encoding="utf-8")))
    assert len(lines) >= 8
    for line, overrides in lines:
        assert Experiment.compose(overrides).cells, line


def test_the_gallery_has_a_command_for_every_figure_with_runs():
    page = (PROJECT / "_static" / "README.md").read_text(encoding="utf-8")
    shown = {word.removeprefix("experiment=") for _, words in commands(page) for word in words if "experiment=" in word}
    assert shown == {path.stem for path in (PROJECT / "conf" / "experiment").glob("figure*.yaml")}
    for path in re.findall(r"\]\((\S+\.png)\)", page):
        assert (PROJECT / "_static" / path).is_file()


def test_the_readmes_cells_are_experiments():
    lines = [line for line, _ in commands((PROJECT / "README.md").read_text(encoding="utf-8"))]
    for algorithm in {cell.of["algorithm"] for cell in cells(13)}:
        assert any(f"algorithm={algorithm}" in line.split() for line in lines)
