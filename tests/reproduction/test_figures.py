"""Which figure an experiment draws of which runs, and the comparison of all cells with the paper."""

from types import SimpleNamespace

import numpy as np
import pytest
from support.fake_runs import DIGITS, change_config, ramp
from support.figures import hollow_markers, lines

from fedbabu.reproduction.experiment import Experiment
from fedbabu.reproduction.figures import FIGURES, comparison_figure, figures
from fedbabu.reproduction.paper.tables import accuracy_by_finetune_epoch, cells_of_table
from fedbabu.runs.records import RoundRecord

TABLE6 = ("experiment=table06", "cells.s=10", "cells.tau_f=20")
SMALL = ("dataset=digits", "run.num-clients=10")
MOBILE_NET, FOUR_CONV_NET = ("cifar100", "MobileNet"), ("cifar10", "FourConvNet")
PARTS = ["full", "body", "head"]
INITIALIZATIONS = ["he-uniform", "he-normal", "xavier-uniform", "xavier-normal", "orthogonal", "similar"]


@pytest.mark.parametrize(
    ("name", "figure", "record", "setups"),
    [
        ("figure12", "layer-similarity", "similarity", {MOBILE_NET}),
        ("figure13", "class-accuracy", "class-accuracy", {MOBILE_NET}),
        ("figure15", "representations", "features", {MOBILE_NET, FOUR_CONV_NET}),
        ("figure16", "vehicle-representations", "features", {MOBILE_NET, FOUR_CONV_NET}),
        ("table04", "accuracy-by-finetuned-part", "", {MOBILE_NET}),
        ("table05", "accuracy-by-heterogeneity", "", {MOBILE_NET}),
        ("table06", "accuracy-over-finetune-epochs", "", {MOBILE_NET}),
        ("table13", "accuracy-by-heterogeneity", "", {FOUR_CONV_NET}),
    ],
)
def test_an_experiment_records_what_its_figure_shows(name, figure, record, setups):
    experiment = Experiment.compose([f"experiment={name}"])
    assert experiment.figure == figure
    assert figure in FIGURES
    configs = [cell.config for cell in experiment.cells]
    assert {config["record"] for config in configs} == {record}
    assert {(config["dataset"], config["model-name"]) for config in configs} == setups


@pytest.mark.parametrize(
    ("by_part", "by_head_init", "dataset", "model"),
    [
        ("figure02", "figure03", "cifar100", "MobileNet"),
        ("figure04", "figure05", "cifar10", "FourConvNet"),
        ("figure06", "figure07", "cifar100", "ResNet18"),
        ("figure08", "figure09", "cifar100", "ResNet50"),
    ],
)
def test_the_experiments_of_centralized_training(by_part, by_head_init, dataset, model):
    for name, figure, key, values in (
        (by_part, "centralized-by-part", "server-part", PARTS),
        (by_head_init, "centralized-by-head-init", "head-init", INITIALIZATIONS),
    ):
        experiment = Experiment.compose([f"experiment={name}"])
        assert experiment.figure == figure
        assert [cell.config[key] for cell in experiment.cells] == values
        for config in (cell.config for cell in experiment.cells):
            assert (config["dataset"], config["model-name"]) == (dataset, model)
            assert (config["num-server-rounds"], config["fraction-train"]) == (160, 0.0)


def drawn(name, runs):
    """The labels of the lines of each figure."""
    return [list(lines(figure)) for figure in figures(name, runs)]


def test_there_is_a_figure_for_each_setting(fake_runs):
    def add(name, *overrides):
        return fake_runs.add(name, [*SMALL, *overrides], ramp(80.0, num_clients=10), dataset=DIGITS)

    avg, babu = add("a", "algorithm=fedavg"), add("b", "algorithm=fedbabu")
    slower, longer = add("c", "run.learning-rate=0.05"), add("d", "run.num-finetune-epochs=3")
    titles = [figure.get_suptitle() for figure in figures("accuracy-over-finetune-epochs", [avg, babu, slower, longer])]
    assert len(set(titles)) == 3
    assert "learning-rate = 0.05" in titles[1]
    assert "τ_f = 3" in titles[2]
    assert drawn("accuracy-over-finetune-epochs", [avg, babu, slower]) == [["FedAvg", "FedBABU"], ["FedBABU"]]


def test_of_runs_that_are_alike_the_newest_is_drawn(fake_runs):
    runs = [fake_runs.add(name, SMALL, ramp(mean, 10), dataset=DIGITS) for name, mean in (("a", 80.0), ("b", 90.0))]
    (figure,) = figures("accuracy-over-finetune-epochs", runs)
    assert lines(figure)["FedBABU"][-1, 1] == 90.0


def test_settings_with_several_values_of_the_varied_key_are_preferred(fake_runs):
    runs = [
        fake_runs.add(f"s-{s}-{rate}", [*SMALL, f"run.shards-per-client={s}", f"run.learning-rate={rate}"],
                      ramp(80.0, 10), dataset=DIGITS)
        for s, rate in ((2, 0.1), (5, 0.1), (10, 0.1), (2, 0.05))
    ]  # fmt: skip
    (figure,) = figures("accuracy-by-heterogeneity", runs)
    assert lines(figure)["FedBABU"][:, 0].tolist() == [0, 1, 2]
    alone = list(figures("accuracy-by-heterogeneity", [runs[0], runs[3]]))
    assert [lines(figure)["FedBABU"][:, 0].tolist() for figure in alone] == [[0], [0]]


def test_only_runs_that_recorded_what_the_figure_shows_are_drawn(fake_runs):
    centralized = ["experiment=figure04", *SMALL]
    federated = fake_runs.add("federated", SMALL, ramp(80.0, 10), dataset=DIGITS)
    runs = [
        fake_runs.add(part, [*centralized, f"cells.server-part={part}"], ramp(80.0, 10, epochs=0), dataset=DIGITS)
        for part in ("body", "full")
    ]
    for run in runs:
        run.write_rounds([RoundRecord(round=number, test_accuracy=10.0 * number) for number in (1, 2)])
    assert drawn("centralized-by-part", [federated, *runs]) == [["body", "full"]]
    assert drawn("accuracy-by-heterogeneity", runs) == []
    for name in ("class-accuracy", "layer-similarity", "representations", "vehicle-representations"):
        assert drawn(name, [federated, *runs]) == []


def test_the_papers_numbers_are_at_every_epoch_of_fine_tuning_that_it_prints(fake_runs):
    run = fake_runs.add("run", [*TABLE6, "algorithm=fedbabu"], ramp(70.0, epochs=20), table=6)
    printed = accuracy_by_finetune_epoch(run)
    assert printed == {  # those after 0 and 20 epochs would be from the summary, which has none here
        cell.axes["num-finetune-epochs"]: cell.mean
        for cell in cells_of_table(6)
        if cell.axes["algorithm"] == "fedbabu" and cell.axes["shards-per-client"] == 10
        if cell.axes["num-finetune-epochs"] not in (0, 20)
    }
    assert list(printed) == [1, 2, 3, 4, 5, 10, 15]
    (figure,) = figures("accuracy-over-finetune-epochs", [run])
    assert [epoch for ((epoch, _),) in zip(*hollow_markers(figure), strict=True)] == sorted(printed)
    change_config(run, learning_rate=0.05)
    assert accuracy_by_finetune_epoch(type(run)(run.path)) == {}


def test_a_cell_is_drawn_at_the_papers_and_our_accuracy():
    values = [
        ("fedavg", 80.0, 5.0, 85.94, 10.72),
        ("fedbabu", 88.0, 8.0, 87.85, 8.57),
        ("ditto", np.nan, np.nan, 1.0, 2.0),
    ]
    cells = [
        SimpleNamespace(
            axes={"algorithm": name, "metric": "personalized"},
            ours={"text": SimpleNamespace(mean=mean, std=std, runs=[] if np.isnan(mean) else ["run"])},
            paper_mean=paper_mean,
            paper_std=paper_std,
            is_compared=not np.isnan(mean),
            num_clients=100,
        )
        for name, mean, std, paper_mean, paper_std in values
    ]
    axes = comparison_figure("Table 13", cells).axes[0]
    for bar, (name, mean, std, paper_mean, paper_std) in zip(axes.containers, values[:2], strict=True):
        assert bar.get_label() == f"{name}, as the text"
        assert bar[0].get_xydata().tolist() == [[paper_mean, mean]]
        horizontal, vertical = (bars.get_segments()[0] for bars in bar[2])
        np.testing.assert_allclose(horizontal[:, 0], [paper_mean - paper_std / 5, paper_mean + paper_std / 5])
        np.testing.assert_allclose(vertical[:, 1], [mean - std / 5, mean + std / 5])
