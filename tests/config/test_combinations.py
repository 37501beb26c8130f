"""Keys that do not fit together are refused before anything runs, by their names."""

import pytest
from support.errors import config_error

from fedbabu.config import RunConfig, check_keys_are_read, default_run_config

CENTRALIZED = {"fraction-train": 0.0, "server-data-fraction": 1.0}


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"algorithm": "lg-fedavg"}, ["'lg-fedavg'", "'fedavg'", "initial-model"]),
        ({"algorithm": "lg-fedavg", "initial-model": " "}, ["initial-model"]),
        ({"head-init": "similar", "initial-model": "/a"}, ["head-init = 'similar'", "initial-model = '/a'"]),
        ({"min-fit-clients": 11}, ["min-fit-clients = 11", "fraction-train = 0.1", "from 1 to 10"]),
        ({"min-available-clients": 101}, ["min-available-clients = 101", "num-clients = 100"]),
        ({"min-available-clients": 2, "min-fit-clients": 3}, ["min-available-clients = 2", "min-fit-clients = 3"]),
        ({"fraction-train": 0.0}, ["fraction-train = 0.0", "server-data-fraction = 0.0"]),
        ({"server-data-fraction": 0.1, "server-part": "full"}, ["server-part = 'full'", "'fedbabu'", "'body'"]),
        ({"algorithm": "local-only", "server-data-fraction": 0.1}, ["'local-only'", "server-data-fraction"]),
        (CENTRALIZED | {"algorithm": "ditto"}, ["'ditto'", "'fedavg' or 'fedbabu'"]),
        (CENTRALIZED | {"algorithm": "fedprox"}, ["'fedprox'", "'fedavg' or 'fedbabu'"]),
        (CENTRALIZED | {"algorithm": "fedper"}, ["'fedper'", "'fedavg' or 'fedbabu'"]),
        (CENTRALIZED | {"trained-blocks": 1}, ["trained-blocks", "fraction-train = 0.0"]),
        (CENTRALIZED | {"head-learning-rate-factor": 0.5}, ["head-learning-rate-factor", "fraction-train = 0.0"]),
        (CENTRALIZED | {"record": "class-accuracy"}, ["record = 'class-accuracy'", "fraction-train = 0.0"]),
        ({"record": "similarity", "num-finetune-epochs": 0}, ["record = 'similarity'", "num-finetune-epochs = 0"]),
        ({"record": "similarity", "algorithm": "ditto"}, ["record = 'similarity'", "'ditto'"]),
        ({"record": "features", "algorithm": "local-only"}, ["record = 'features'", "'local-only'"]),
    ],
)
def test_keys_that_do_not_fit_together_are_named(keys, named):
    with config_error(*named):
        RunConfig.from_flower(default_run_config() | keys)


@pytest.mark.parametrize(
    "keys",
    [
        CENTRALIZED | {"min-fit-clients": 11},  # of local training, which there is none of
        CENTRALIZED | {"server-part": "head"},
        {"server-data-fraction": 0.1, "server-part": "body"},
        {"algorithm": "fedavg", "server-data-fraction": 0.1, "server-part": "head"},
        {"record": "features class-accuracy similarity"},
        {"algorithm": "ditto", "finetune-part": "full", "record": "similarity"},
    ],
)
def test_keys_that_fit_together_are_accepted(keys):
    values = RunConfig.from_flower(default_run_config() | keys).to_flower()
    assert {key: values[key] for key in keys} == keys


@pytest.mark.parametrize(
    ("keys", "refused"),
    [
        ({"algorithm": "fedavg", "proximal-mu": 0.5}, "proximal-mu"),
        ({"algorithm": "fedbabu", "head-learning-rate-factor": 0.5}, "head-learning-rate-factor"),
        ({"algorithm": "fedprox-babu", "head-learning-rate-factor": 0.5}, "head-learning-rate-factor"),
        ({"algorithm": "fedper", "ditto-lambda": 1.0}, "ditto-lambda"),
        ({"algorithm": "fedprox", "proximal-mu": 0.5}, None),
        ({"algorithm": "fedavg", "head-learning-rate-factor": 0.5}, None),
        ({"algorithm": "fedavg", "proximal-mu": 0.01}, None),
        ({"dirichlet-beta": 0.1}, "dirichlet-beta"),
        ({"partition": "dirichlet", "shards-per-client": 5}, "shards-per-client"),
        ({"partition": "dirichlet", "dirichlet-beta": 0.1}, None),
        ({"protocol": "code", "algorithm": "fedrep"}, None),
    ],
)
def test_a_key_that_the_algorithm_does_not_read_is_refused_if_it_was_changed(keys, refused):
    config = RunConfig.from_flower(default_run_config() | keys)
    if refused is None:
        check_keys_are_read(config)
    else:
        with config_error(refused, f"algorithm = '{config.algorithm}'", "does not read it"):
            check_keys_are_read(config)
