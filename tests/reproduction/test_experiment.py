"""The cells of an experiment, and which runs in the results folder have their numbers."""

import pytest
from support.fake_runs import DIGITS, change_config, ramp

from fedbabu.reproduction.comparison import compare_with_paper
from fedbabu.reproduction.experiment import Experiment
from fedbabu.reproduction.paper.tables import cells_of_table, tables
from fedbabu.reproduction.sweep import plan

# For each table, how many cells it has and how many runs they take. A run has the cells of all metrics and of all
# epochs of fine-tuning, local-only does not depend on f and τ, and LG-FedAvg starts from FedAvg's run.
CELLS_AND_RUNS = {
    1: (36, 18), 2: (30, 15), 3: (72, 36), 4: (54, 54), 5: (144, 129), 6: (36, 4), 7: (36, 18), 8: (0, 0), 9: (36, 6),
    10: (48, 24), 11: (72, 36), 12: (72, 36), 13: (144, 129), 14: (90, 90), 15: (90, 90), 16: (36, 18), 17: (36, 18),
    18: (16, 16), 19: (24, 24), 20: (96, 24), 21: (18, 9), 22: (36, 18), 23: (12, 12), 24: (36, 18), 25: (105, 105),
}  # fmt: skip
RUNS_OF_FIGURES = {2: 3, 3: 6, 4: 3, 5: 6, 6: 3, 7: 6, 8: 3, 9: 6, 12: 2, 13: 6, 15: 4, 16: 4}
TABLE13 = ("experiment=table13", "cells.s=2", "cells.f=0.1", "cells.tau=4")


@pytest.mark.parametrize("number", CELLS_AND_RUNS)
def test_the_experiment_of_a_table_has_exactly_the_papers_cells(number):
    experiment = Experiment.compose([f"experiment=table{number:02}"])
    assert [cell.printed for cell in experiment.cells] == list(cells_of_table(number))
    assert [(cell.axes, cell.metric) for cell in experiment.cells] == [
        (printed.axes, printed.metric) for printed in cells_of_table(number)
    ]
    assert (len(experiment.cells), len(plan(experiment))) == CELLS_AND_RUNS[number]


@pytest.mark.parametrize("number", RUNS_OF_FIGURES)
def test_the_experiment_of_a_figure_has_its_runs(number):
    experiment = Experiment.compose([f"experiment=figure{number:02}"])
    assert len(plan(experiment)) == RUNS_OF_FIGURES[number]


def labels(*overrides):
    return [cell.label for cell in Experiment.compose(overrides).cells]


def test_overrides_narrow_a_table():
    chosen = labels(*TABLE13, "algorithm=fedbabu,fedavg")
    assert chosen == ["fedbabu, s = 2, f = 0.1, τ = 4", "fedavg, s = 2, f = 0.1, τ = 4"]
    assert len(labels("experiment=table13", "cells.s=[2,5]", "cells.algorithm=ditto")) == 12
    assert labels("experiment=table02", "cells.s=10", "cells.server-part=body")[0] == "fedavg, p = 0.0, s = 10"


def test_a_sweep_of_the_users_own_has_a_run_for_each_combination_of_values():
    experiment = Experiment.compose(
        ["algorithm=fedavg,fedbabu", "run.momentum=0.5,0.9", "seeds=[1,2]", "dataset=digits"]
    )
    assert [cell.label for cell in experiment.cells] == [
        "fedavg, m = 0.5", "fedavg, m = 0.9", "fedbabu, m = 0.5", "fedbabu, m = 0.9",
    ]  # fmt: skip
    runs = plan(experiment)
    assert {(run.config["algorithm"], run.config["momentum"], run.config["seed"]) for run in runs} == {
        (algorithm, momentum, seed) for algorithm in ("fedavg", "fedbabu") for momentum in (0.5, 0.9) for seed in (1, 2)
    }
    assert all(run.config["dataset"] == "digits" for run in runs)


def test_a_key_of_one_algorithm_is_for_its_cells_alone():
    experiment = Experiment.compose(["algorithm=fedavg,fedprox", "run.proximal-mu=0.5", "dataset=digits"])
    assert {cell.config["algorithm"]: cell.config["proximal-mu"] for cell in experiment.cells} == {
        "fedavg": 0.01, "fedprox": 0.5,
    }  # fmt: skip


def test_the_dataset_of_a_sweep_may_be_a_folder_or_an_id_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("my pets", "it's"):
        (tmp_path / name).mkdir()
    for given, meant in (
        ("'my pets'", tmp_path / "my pets"),
        (tmp_path, tmp_path),
        ('"it\'s"', tmp_path / "it's"),
        ("someone/pets", "someone/pets"),
    ):
        experiment = Experiment.compose([f"dataset={given}", "algorithm=fedavg,fedbabu"])
        assert [cell.config["dataset"] for cell in experiment.cells] == [str(meant)] * 2


def test_an_accuracy_that_an_algorithm_does_not_have_is_no_cell(fake_runs):
    """Local-only has no initial accuracy, and FedAvg's own run has all three."""
    for algorithm in ("fedavg", "local-only"):
        fake_runs.add(algorithm, ["dataset=digits", f"algorithm={algorithm}"], ramp(50), dataset=DIGITS)
    experiment = Experiment.compose(["algorithm=fedavg,local-only", "dataset=digits", fake_runs.override])
    cells = compare_with_paper(experiment)
    assert all(cell.runs for cell in cells)
    metrics = {(cell.axes["algorithm"], cell.axes["metric"]) for cell in cells}
    assert ("fedavg", "initial") in metrics
    assert ("local-only", "initial") not in metrics


def test_cells_are_distinguished_by_every_key_with_several_values():
    assert labels("total-epochs=8,16") == ["fedbabu, num-server-rounds = 2", "fedbabu, num-server-rounds = 4"]
    assert labels("+cells.momentum=0.5,0.9") == ["fedbabu, m = 0.5", "fedbabu, m = 0.9"]
    assert len(labels(*TABLE13, "seeds=1,2")) == 8  # seeds are no cells


def test_a_cell_in_another_setting_has_no_number_of_the_paper():
    one_cell = [*TABLE13, "algorithm=fedbabu"]
    (cell,) = Experiment.compose(one_cell).cells
    assert cell.printed.mean == 87.85
    for change in (
        "run.num-clients=50", "total-epochs=160", "dataset=digits", "run.momentum=0.5", "data.cifar10=digits",
    ):  # fmt: skip
        (cell,) = Experiment.compose([*one_cell, change]).cells
        assert cell.printed is None
    (cell,) = Experiment.compose([*one_cell, "data.cifar10=/data/cifar10"]).cells
    assert cell.printed.mean == 87.85
    assert cell.config["dataset"] == "/data/cifar10"


def means(*overrides):
    """The mean accuracies of all compared cells, as the text has them; None for a cell without a run."""
    cells = compare_with_paper(Experiment.compose(overrides))
    return [cell.ours["text"].mean if cell.runs else None for cell in cells]


def test_a_run_has_the_accuracies_after_fewer_epochs_of_fine_tuning_too(fake_runs):
    table6 = ["experiment=table06", "cells.s=10", "algorithm=fedbabu"]
    fake_runs.add("long", [*table6, "cells.tau_f=20"], ramp(70.0, epochs=20), table=6)
    assert means(*table6, fake_runs.override) == [50.0 + epochs for epochs in (0, 1, 2, 3, 4, 5, 10, 15, 20)]
    # It is the run of the cell in Table 5 too, where the paper fine-tunes for 5 epochs.
    table5 = ["experiment=table05", "cells.s=10", "cells.f=0.1", "cells.tau=10", "algorithm=fedbabu"]
    assert means(*table5, fake_runs.override) == [55.0]


def test_one_run_without_communication_is_for_all_f_and_tau(fake_runs):
    alone = ["experiment=table13", "cells.s=2", "algorithm=local-only"]
    fake_runs.add("alone", [*alone, "cells.f=0.1", "cells.tau=4"], ramp(90.0))
    assert means(*alone, fake_runs.override) == [90.0] * 6


def test_runs_without_communication_must_have_the_same_schedule(fake_runs):
    alone = ["dataset=digits", "algorithm=local-only", "run.num-clients=10"]
    three_rounds = [*alone, "run.num-local-epochs=4", "run.num-server-rounds=3"]
    fake_runs.add("three", three_rounds, ramp(90.0, num_clients=10), dataset=DIGITS)
    assert means(*three_rounds, fake_runs.override)[-1] == 90.0
    twelve_rounds = [*alone, "run.num-local-epochs=1", "run.num-server-rounds=12"]
    assert set(means(*twelve_rounds, fake_runs.override)) == {None}


def test_keys_that_a_run_does_not_read_do_not_matter(fake_runs):
    fake_runs.add(
        "ditto", [*TABLE13, "algorithm=ditto", "run.num-finetune-epochs=1", "run.client-column=x"], ramp(55.0)
    )
    assert means(*TABLE13, "algorithm=ditto", fake_runs.override) == [55.0]


def test_a_run_on_a_part_of_the_data_has_no_cell(fake_runs):
    avg = [*TABLE13, "algorithm=fedavg"]
    fake_runs.add("a", avg, ramp(80.0))
    part = fake_runs.add("b", avg, ramp(30.0), dataset=tables()[13]["dataset"] | {"num-train-examples": 5_000})
    change_config(part, dataset="/data/part")
    change_config(fake_runs.add("c", avg, ramp(20.0)), label_column="coarse_label")
    assert means(*avg, fake_runs.override) == [80.0]
    (run,) = plan(Experiment.compose([*avg, fake_runs.override]))
    assert run.folder().path.name == "a"
    assert len(plan(Experiment.compose(["dataset=cifar100", "run.label-column=fine_label,coarse_label"]))) == 2


def test_the_same_data_may_be_at_another_place(fake_runs, tmp_path):
    (tmp_path / "cifar").mkdir()
    change_config(fake_runs.add("a", [*TABLE13, "algorithm=fedavg"], ramp(80.0)), dataset=str(tmp_path / "cifar"))
    avg = [*TABLE13, "algorithm=fedavg", fake_runs.override]
    assert means(*avg) == means(*avg, f"data.cifar10={tmp_path}/cifar/") == means(*avg, "data.cifar10=/x") == [80.0]


def test_lg_fedavg_counts_only_if_it_started_from_a_run(fake_runs):
    lg = [*TABLE13, "algorithm=lg-fedavg"]
    change_config(fake_runs.add("from-a-file", lg, ramp(30.0)), initial_model="/x/any.safetensors")
    assert means(*lg, fake_runs.override) == [None]
    change_config(fake_runs.add("from-a-run", lg, ramp(47.0)), initial_model="/runs/fedavg")
    assert means(*lg, fake_runs.override) == [47.0]


@pytest.mark.parametrize(
    ("file", "text"),
    [
        *(("config.json", text) for text in ("{", "{}", "[]", "null")),
        *(("summary.json", text) for text in ("", "[]")),
        *(("clients.jsonl", text) for text in ("", "{\n", "{}\n")),
        *(("rounds.jsonl", text) for text in ("{\n", "{}\n", "1\n")),
    ],
)
def test_a_damaged_run_does_not_count(fake_runs, file, text):
    fake_runs.add("good", [*TABLE13, "algorithm=fedavg"], ramp(80.0))
    damaged = fake_runs.add("damaged", [*TABLE13, "algorithm=fedavg"], ramp(30.0), seed=7)
    (damaged.path / file).write_text(text)
    assert means(*TABLE13, "algorithm=fedavg", fake_runs.override) == [80.0]


@pytest.mark.parametrize(
    "change", [{"algorithm": "fedfoo"}, {"partition": "foo"}, {"momentum": 2.0}, {"unknown": 1}, {"num_clients": None}]
)
def test_a_run_with_another_run_config_than_this_version_has_does_not_count(fake_runs, change):
    change_config(fake_runs.add("run", [*TABLE13, "algorithm=fedavg"], ramp(30.0)), **change)
    assert means(*TABLE13, "algorithm=fedavg", fake_runs.override) == [None]


def test_a_run_with_a_key_of_an_earlier_version_counts(fake_runs):
    change_config(fake_runs.add("run", [*TABLE13, "algorithm=fedavg"], ramp(30.0)), cuda_graph=False)
    assert means(*TABLE13, "algorithm=fedavg", fake_runs.override) == [30.0]


def test_an_interrupted_run_that_cannot_be_resumed_is_started_anew(fake_runs):
    run = fake_runs.add("interrupted", [*TABLE13, "algorithm=fedavg"], ramp(30.0))
    (run.path / "summary.json").unlink()  # and it has no checkpoint
    (planned,) = plan(Experiment.compose([*TABLE13, "algorithm=fedavg", fake_runs.override]))
    assert planned.folder() is None


def test_a_cell_as_in_the_code_is_the_papers_whatever_the_code_fixes():
    for cell in Experiment.compose([*TABLE13, "protocol=code"]).cells:
        assert cell.printed is not None
        assert cell.config["protocol"] == "code"


def test_two_runs_have_all_numbers_of_the_differences_in_measuring():
    experiment = Experiment.compose(["experiment=differences"])
    assert len(experiment.cells) == 12
    assert [run.config["algorithm"] for run in plan(experiment)] == ["fedavg", "fedbabu"]
