"""The paper's tables as data, and the cells that a run can be compared with."""

import pytest

from fedbabu.config import RunConfig, default_run_config
from fedbabu.reproduction.paper.tables import cells_of_table, find_cells, tables

CIFAR10 = {"name": "cifar10", "num-classes": 10, "num-train-examples": 50_000}


def default_with(**overrides):
    return default_run_config() | overrides


def test_the_default_run_has_the_papers_cells():
    found = find_cells(default_with(), CIFAR10)
    assert {metric: (cell.mean, cell.std, cell.table) for metric, cell in found.items()} == {
        "initial": (44.39, 16.49, 12),
        "without-head": (83.12, 9.68, 12),
        "personalized": (87.85, 8.57, 13),
    }
    fedavg = find_cells(default_with(algorithm="fedavg"), CIFAR10)
    assert {metric: (cell.mean, cell.std) for metric, cell in fedavg.items()} == {
        "initial": (26.72, 14.54),
        "without-head": (78.56, 12.58),
        "personalized": (85.94, 10.72),
    }


@pytest.mark.parametrize(
    "change",
    [
        {"num-server-rounds": 79},
        {"num-clients": 50},
        {"learning-rate": 0.05},
        {"shards-per-client": 3},
        {"partition": "iid"},
    ],
)
def test_another_setting_has_no_cell(change):
    assert find_cells(default_with(**change), CIFAR10) == {}


@pytest.mark.parametrize("change", [{"name": "cifar100"}, {"num-train-examples": 5_000}, {"num-classes": 2}])
def test_other_data_have_no_cell(change):
    assert find_cells(default_with(), CIFAR10 | change) == {}


CIFAR100 = {"name": "cifar100", "num-classes": 100, "num-train-examples": 50_000}
REALISTIC = {"model-name": "MobileNet", "shards-per-client": 10, "num-local-epochs": 10, "num-server-rounds": 32}


@pytest.mark.parametrize(
    ("change", "metric", "cell"),
    [
        ({}, "initial", (18.5, 7.82, 3)),
        ({"algorithm": "fedavg"}, "initial", (14.4, 5.64, 1)),
        ({"algorithm": "fedavg", "server-data-fraction": 0.1, "server-part": "body"}, "personalized", (60.94, 7.3, 2)),
        ({"algorithm": "fedavg", "server-data-fraction": 0.1, "server-part": ""}, "personalized", (49.62, 7.48, 2)),
        ({"finetune-part": "head"}, "personalized", (66.28, 6.77, 4)),
        ({"algorithm": "ditto", "shards-per-client": 50}, "personalized", (22.16, 4.67, 5)),
        ({"num-finetune-epochs": 1}, "personalized", (63.29, 7.55, 6)),
        ({"algorithm": "fedprox-babu"}, "personalized", (67.15, 7.1, 7)),
        ({"momentum": 0.99}, "initial", (15.68, 7.11, 10)),
        ({"num-clients": 500}, "personalized", (49.83, 11.74, 11)),
        ({"model-name": "ResNet50", "algorithm": "fedavg"}, "personalized", (59.5, 7.3, 17)),
        (
            {"partition": "dirichlet", "dirichlet-beta": 0.5, "algorithm": "local-only"},
            "personalized",
            (31.24, 5.49, 18),
        ),
        ({"iid-test-set": True}, "ood-personalized", (0.0, 0.0, 20)),
        ({"server-data-fraction": 0.05}, "initial", (21.32, 5.85, 21)),
        ({"fraction-train": 1.0, "algorithm": "fedprox"}, "initial", (19.63, 5.73, 22)),
        ({"head-learning-rate-factor": 0.01, "algorithm": "fedavg"}, "without-head", (54.04, 7.6, 23)),
        ({"head-init": "similar"}, "initial", (11.71, 6.67, 24)),
        ({"num-server-rounds": 64, "shards-per-client": 5}, "personalized", (81.05, 6.89, 25)),
        (
            {"fraction-train": 0.0, "server-data-fraction": 1.0, "num-server-rounds": 10, "num-finetune-epochs": 2},
            "personalized",
            (69.14, 5.78, 9),
        ),
    ],
)
def test_every_kind_of_run_finds_its_cell(change, metric, cell):
    config = RunConfig.from_flower(default_with(**REALISTIC | change))
    found = find_cells(config.to_flower(), CIFAR100)[metric]
    assert (found.mean, found.std, found.table) == cell


@pytest.mark.parametrize(
    "unused", [{"proximal-mu": 9.0}, {"ditto-lambda": 9.0}, {"per-fedavg-beta": 9.0}, {"dirichlet-beta": 9.0}]
)
def test_keys_that_a_run_does_not_read_do_not_matter(unused):
    assert find_cells(default_with(**unused), CIFAR10) == find_cells(default_with(), CIFAR10)
    (key,) = unused
    using = {"proximal-mu": "fedprox", "ditto-lambda": "ditto", "per-fedavg-beta": "per-fedavg"}.get(key)
    if using:
        assert find_cells(default_with(algorithm=using, **REALISTIC, **unused), CIFAR100) == {}
        assert find_cells(default_with(algorithm=using, **REALISTIC), CIFAR100) != {}


def test_the_blocks_of_tables_14_and_15():
    found = find_cells(default_with(**{"trained-blocks": 1}), CIFAR10)
    assert {metric: (cell.mean, cell.table) for metric, cell in found.items()} == {
        "initial": (14.09, 14),
        "personalized": (82.74, 15),
    }


def test_emnist():
    config = default_with(**{"model-name": "ThreeConvNet", "num-clients": 1488, "shards-per-client": 6})
    config |= {"num-local-epochs": 10, "num-server-rounds": 32, "algorithm": "fedrep"}
    assert find_cells(config, {"name": "emnist", "num-classes": 62})["personalized"].mean == 94.61


# For each table, the number of rows in its file (one per setting) and of its cells.
COUNTS = {
    1: (18, 36), 2: (15, 30), 3: (18, 72), 4: (27, 54), 5: (18, 144), 6: (18, 36), 7: (9, 36), 8: (0, 0), 9: (18, 36),
    10: (12, 48), 11: (18, 72), 12: (18, 72), 13: (18, 144), 14: (72, 90), 15: (72, 90), 16: (9, 36), 17: (9, 36),
    18: (2, 16), 19: (3, 24), 20: (12, 96), 21: (9, 18), 22: (9, 36), 23: (9, 12), 24: (18, 36), 25: (15, 105),
}  # fmt: skip


def test_every_table_is_complete_and_plausible():
    assert list(tables()) == list(range(1, 26))
    for number, table in tables().items():
        found = list(cells_of_table(number))
        assert (len(table["rows"]), len(found)) == COUNTS[number]
        assert all(0 <= cell.mean <= 100 and 0 <= cell.std < 26 for cell in found)


def test_every_cell_has_one_place_on_paper():
    for number, table in tables().items():
        places = set()
        for cell in cells_of_table(number):
            keys = table["setting"] | cell.axes | {"metric": cell.metric}
            assert set(table["compares"]) <= {*table["down"], *table["across"]}
            places.add(tuple(keys.get(key) for key in table["down"] + table["across"]))
        assert len(places) == COUNTS[number][1]


@pytest.mark.slow
def test_cells_that_two_tables_print_agree():
    """Every cell is found by its own setting, a valid one, as the first table with that setting prints it."""
    num_shared = 0
    for number, table in tables().items():
        for cell in cells_of_table(number):
            config = default_with(**cell.run_config)
            if cell.axes["algorithm"] == "lg-fedavg":
                config["initial-model"] = "run"
            found = find_cells(RunConfig.from_flower(config).to_flower(), table["dataset"])[cell.metric]
            assert (found.mean, found.std) == (cell.mean, cell.std), (number, cell.axes)
            num_shared += found.table != number
    assert num_shared > 150
