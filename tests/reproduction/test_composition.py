"""What Hydra composes: the experiments, what the package knows by name, and sentences about wrong overrides."""

import pytest
from support.errors import config_error

from fedbabu.algorithms import ALGORITHMS
from fedbabu.data.known import KNOWN_DATASETS
from fedbabu.errors import ConfigError
from fedbabu.models import MODELS
from fedbabu.reproduction import composition
from fedbabu.reproduction.experiment import Experiment

ONE_CELL = ("experiment=table13", "cells.s=2", "cells.f=0.1", "cells.tau=4", "algorithm=fedbabu")


@pytest.mark.parametrize(
    ("group", "key", "names"),
    [("algorithm", "algorithm", ALGORITHMS), ("dataset", "dataset", KNOWN_DATASETS), ("model", "model-name", MODELS)],
)
def test_names_that_the_package_knows_are_options_without_a_file(group, key, names):
    for name in names:
        overrides = [f"{group}={name}", *(["run.initial-model=/x"] if name == "lg-fedavg" else [])]
        (cell,) = Experiment.compose(overrides).cells
        assert cell.config[key] == name


def test_the_experiments_are_all_tables_and_the_figures_with_runs():
    with pytest.raises(ConfigError, match="experiment/table99") as error:
        composition.compose(["experiment=table99"])
    options = str(error.value).rstrip(".").split(": ")[1].split()
    figures = [f"figure{number:02}" for number in (*range(2, 10), 12, 13, 15, 16)]
    tables = [f"table{number:02}" for number in range(1, 26)]
    assert options == [
        "centralized-by-head-init",
        "centralized-by-part",
        "differences",
        *figures,
        "quickstart",
        *tables,
    ]


def test_the_protocol_of_a_table_does_not_depend_on_the_users_defaults(monkeypatch):
    changed = composition.default_run_config() | {"learning-rate": 0.5, "num-finetune-epochs": 9}
    monkeypatch.setattr(composition, "default_run_config", lambda: changed)
    (cell,) = Experiment.compose(ONE_CELL).cells
    keys = ("learning-rate", "num-finetune-epochs", "num-server-rounds")
    assert [cell.config[key] for key in keys] == [0.1, 5, 80]
    (cell_of_the_users_sweep,) = Experiment.compose([]).cells
    assert cell_of_the_users_sweep.config["learning-rate"] == 0.5


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["experiment=table13", "cells.s=3"], ["Table 13", "shards-per-client = 3", "10, 5, 2"]),
        (["experiment=table13", "cells.q=1"], ["cells.q"]),
        (["experiment=table13", "cells.s=[]"], ["cells.s = []"]),
        (["experiment=table13", "+cells.momentum=0.9"], ["Table 13", "run.momentum"]),
        (["experiment=table13", "run.num-local-epochs=1"], ["run.num-local-epochs", "cells.tau"]),
        (["experiment=table13", "++run.shards-per-client=5"], ["run.shards-per-client", "cells.s"]),
        (["experiment=table13", "total-epochs=7"], ["total-epochs = 7", "num-local-epochs = 4"]),
        (["experiment=table13", "run.partition=even"], ["partition = 'even'"]),
        (["experiment=table14", "algorithm=fedavg", "cells.trained-blocks=1"], ["Table 14 has no cell"]),
        (["experiment=table12,table13"], ["experiment"]),
        (["experiment=figure02,figure06"], ["experiment"]),
        (["run.learning-rat=1"], ["run.learning-rat"]),
        (["run.learning-rate=-1"], ["learning-rate = -1", "a number above 0"]),
        (["run.initial-model=a", "run.head-init=similar"], ["initial-model", "head-init"]),
        (["run.seed=7"], ["seed", "seeds=[1,2]"]),
        (["+cells.seed=[1,2]"], ["seed", "seeds=[1,2]"]),
        (["run.results-dir=/x"], ["results-dir"]),
        (["run.resume=/x"], ["resume"]),
        (["run={num-server-rounds:8}"], ["run={num-server-rounds:8}", "run.momentum=0.5"]),
        (["~run.algorithm"], ["run.algorithm"]),
        (["run=null"], ["run = None"]),
        (["cells=null"], ["cells = None"]),
        (["~title"], ["title = None"]),
        (["algorithm=fedavg,fedbabu", "run.proximal-mu=0.5"], ["run.proximal-mu = 0.5", "no algorithm"]),
        (["algorithm=fedbabu", "run.head-learning-rate-factor=0.5"], ["run.head-learning-rate-factor = 0.5"]),
        (["dataset=/no/such/folder"], ["dataset = '/no/such/folder'", "no such folder"]),
        (["dataset=cifar11"], ["cifar11", "cifar100"]),
        (["dataset="], ["dataset"]),
        (["seeds=[]"], ["seeds = []", "a list of integers"]),
        (["seeds=[1,-1]"], ["seeds = -1"]),
        (["table=99"], ["table = 99", "null or a number from 1 to 25"]),
        (["total-epochs=abc"], ["total-epochs = 'abc'"]),
        (["results-dir=5"], ["results-dir = 5"]),
        (["results-dir='~nouser/x'"], ["results-dir = '~nouser/x'"]),
        (["data.cifar10=5"], ["data.cifar10 = 5"]),
        (["federation.num-supernodes=abc"], ["federation.num-supernodes = 'abc'", "auto, clients"]),
        (["federation.client-resources-num-cpus=0"], ["federation.client-resources-num-cpus = 0"]),
        (["federation.client-resources-num-gpus=-1"], ["federation.client-resources-num-gpus = -1"]),
        (["table13"], ["'table13'", "cells.s=2"]),
        (["cells.s=[2"], ["'cells.s=[2'"]),
        (["algorithm=glob(fed*)"], ["'algorithm=glob(fed*)'"]),
    ],
)
def test_a_wrong_override_is_a_sentence_that_names_the_key(overrides, named):
    with config_error(*named):
        Experiment.compose(overrides)
