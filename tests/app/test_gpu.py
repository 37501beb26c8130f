"""On a GPU: `pytest -m gpu`."""

import pytest
import torch
from support.faults import stopped_after_round
from support.flower import flwr
from support.in_process import client_states, essence, run_server
from support.reference_runs import start_of

from fedbabu.algorithms import ALGORITHMS
from fedbabu.runs.folder import RunFolder
from fedbabu.runs.results_folder import all_runs, finished_runs

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no GPU")]

# Convolutions round differently on a GPU, and every step of training makes the difference larger.
SHORT = {"num-server-rounds": 2, "num-local-epochs": 1, "num-finetune-epochs": 1, "learning-rate": 0.01}
FLOAT32 = {"rtol": 1e-3, "atol": 1e-4}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_training_on_a_gpu_agrees_with_training_on_a_cpu(tiny_config, tmp_path, algorithm):
    config, _ = start_of(algorithm, tiny_config | SHORT, tmp_path)
    runs = {}
    for device in ("cpu", "cuda"):
        runs[device], _ = run_server(config | {"device": device, "results-dir": str(tmp_path / device)})
        assert runs[device].recorded["federation"]["devices"][0].startswith(device)
    states = {device: {"model": run.model()} | client_states(run) for device, run in runs.items()}
    torch.testing.assert_close(states["cuda"], states["cpu"], **FLOAT32)
    losses = {device: [record.train_loss for record in run.rounds] for device, run in runs.items()}
    assert losses["cuda"] == pytest.approx(losses["cpu"], rel=1e-3)
    for on_gpu, on_cpu in zip(runs["cuda"].clients, runs["cpu"].clients, strict=True):
        assert on_gpu["loss"] == pytest.approx(on_cpu["loss"], rel=1e-2)


@pytest.mark.parametrize("algorithm", ["fedbabu", "fedper", "ditto"])
def test_a_run_that_is_resumed_on_a_gpu_ends_as_an_undisturbed_one(tiny_config, tmp_path, algorithm):
    config = tiny_config | {"algorithm": algorithm, "device": "cuda", "checkpoint-every": 1}
    undisturbed, _ = run_server(config | {"results-dir": str(tmp_path / "undisturbed")})
    with stopped_after_round(2):
        run_server(config)
    (stopped,) = all_runs(config["results-dir"])
    resumed, _ = run_server(config | {"resume": str(stopped.path)})
    assert essence(resumed) == essence(undisturbed)


@pytest.mark.parametrize("keys", [{"server-data-fraction": 0.1}, {"fraction-train": 0.0, "server-data-fraction": 1.0}])
def test_training_on_the_server_agrees_with_training_on_a_cpu(tiny_config, tmp_path, keys):
    runs = {}
    for device in ("cpu", "cuda"):
        config = tiny_config | SHORT | keys | {"device": device, "results-dir": str(tmp_path / device)}
        runs[device], _ = run_server(config)
    torch.testing.assert_close(runs["cuda"].model(), runs["cpu"].model(), **FLOAT32)
    assert runs["cuda"].rounds[-1].test_accuracy == pytest.approx(runs["cpu"].rounds[-1].test_accuracy, abs=5)


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_lower_precision_trains_nearly_the_same(tiny_config, tmp_path, precision):
    losses = {}
    for each in ("float32", precision):
        config = tiny_config | SHORT | {"device": "cuda", "precision": each, "results-dir": str(tmp_path / each)}
        losses[each] = [record.train_loss for record in run_server(config)[0].rounds]
    assert losses[precision] == pytest.approx(losses["float32"], rel=0.05)


def flwr_run(environment: dict, results, federation: tuple[str, ...], **keys: str) -> tuple[RunFolder, str]:
    """Two rounds of digits through `flwr run`; the run and the output."""
    config = (
        f"dataset='digits' num-clients=8 num-server-rounds=2 batch-size=24 evaluate-every=0 results-dir='{results}'"
    )
    given = "".join(f" {key}='{value}'" for key, value in keys.items())
    output = flwr(environment, "run", ".", "--stream", *federation, "--run-config", config + given)
    return finished_runs(results)[-1], output


def test_the_gpu_is_used_without_any_option(flower, tmp_path):
    run, output = flwr_run(flower, tmp_path, ())
    (device,) = run.recorded["federation"]["devices"]
    assert device == f"cuda: {torch.cuda.get_device_name(0)}"
    assert f"({device})" in output


def test_two_nodes_share_a_gpu(flower, tmp_path):
    federation = ("--federation-config", "num-supernodes=2 client-resources-num-cpus=1 client-resources-num-gpus=0.5")
    run, _ = flwr_run(flower, tmp_path, federation)
    assert run.recorded["federation"]["num-supernodes"] == 2
    assert not any(record.failed for record in run.rounds)


def test_the_cpu_is_used_where_that_is_wanted(flower, tmp_path):
    run, _ = flwr_run(flower, tmp_path, (), device="cpu")
    assert run.recorded["federation"]["devices"] == ["cpu"]
