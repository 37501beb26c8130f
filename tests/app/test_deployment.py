"""A real federation: docs/federation.md followed to its end, with a SuperLink and SuperNodes that die and come back."""

import csv
import re
import subprocess

import pytest
from support import PROJECT
from support.deployment import BIN, PAGE, Deployment, deployment, steps
from support.in_process import essence, run_server
from support.pictures import write_folder

from fedbabu.config import default_run_config
from fedbabu.config.defaults import parse_overrides
from fedbabu.reproduction.local_superlink import free_port
from fedbabu.runs.folder import RunFolder

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("papers_width")]


@pytest.fixture(scope="module")
def secure(tmp_path_factory):
    """The federation of the page, with TLS and authentication."""
    with deployment(tmp_path_factory.mktemp("secure"), secure=True) as started:
        yield started


def simulated(federation: Deployment, folder, **keys) -> RunFolder:
    """A run with the data of the same four owners in the process of the test."""
    config = default_run_config() | parse_overrides([federation.overrides(**keys)]) | {"results-dir": str(folder)}
    data = federation.folder / "trial" / "data"
    nodes = [{"data-path": str(data / f"owner-{number}"), "partition-id": number} for number in range(4)]
    return run_server(config, node_configs=nodes)[0]


def test_the_page_followed_to_its_end_is_a_simulation_with_the_same_clients(secure, tmp_path, monkeypatch):
    """FedBABU, to the last bit; and every owner has a model of its own, which classifies its images."""
    output = secure.execute(steps()[3])
    assert "4 clients (local data), 1352 training and 445 test images" in output
    shown = re.findall(r"│ (.+?) │", PAGE.read_text(encoding="utf-8"))
    assert len(shown) == 3
    assert [line for line in shown if line not in output] == []
    (run,) = secure.run_folders
    monkeypatch.setenv("FEDBABU_STATE", str(tmp_path / "state"))
    assert essence(run) == essence(simulated(secure, tmp_path / "results"))
    assert run.summary["missing"] == {}
    secure.execute(steps()[4])
    with (secure.folder / "trial" / "predicted.csv").open() as file:
        predicted = list(csv.DictReader(file))
    right = [row["class"] == row["file"].split("/")[-2] for row in predicted]
    assert len(right) > 100
    assert sum(right) / len(right) > 0.95


def check_that_a_killed_node_comes_back(federation: Deployment, tmp_path, num_rounds: int) -> str:
    """Kill an owner's SuperNode in the second of FedPer's rounds and start it again; returns what the run printed."""
    keys = {"algorithm": "fedper", "num_server_rounds": num_rounds, "keep_personalized": False}
    running = federation.start_run(**keys)
    federation.wait_until_training(2, 1, running)
    federation.start_node(2, federation.kill_node(2))
    output = running.communicate(timeout=900)[0]
    run = federation.run_folders[-1]
    assert run.finished, output
    assert run.rounds[0].failed == {}
    assert {client for record in run.rounds for client in record.failed} <= {2}
    assert run.summary["missing"] == {}
    assert [record["client"] for record in run.clients] == [0, 1, 2, 3]
    assert list((federation.folder / "trial" / "state" / run.recorded["run-id"] / "clients" / "2").iterdir())
    undisturbed = simulated(federation, tmp_path / "results", **keys)
    assert run.rounds[0].train_loss == undisturbed.rounds[0].train_loss
    if not any(record.failed for record in run.rounds):  # it was back before its client was given up
        assert essence(run) == essence(undisturbed)
    return output


def test_an_authenticated_node_that_dies_comes_back_with_its_state(secure, tmp_path, monkeypatch):
    """Flower lets it in again once it has noticed that it was gone."""
    monkeypatch.setenv("FEDBABU_STATE", str(tmp_path / "state"))
    check_that_a_killed_node_comes_back(secure, tmp_path, num_rounds=3)


def test_without_authentication_it_has_another_id_and_is_asked_again(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDBABU_STATE", str(tmp_path / "state"))
    with deployment(tmp_path / "insecure", secure=False) as insecure:
        output = check_that_a_killed_node_comes_back(insecure, tmp_path, num_rounds=3)
    assert "serves client 2 now" in output


OWN, OTHERS = ["--root-certificates", "trial/credentials/ca.crt"], ["--root-certificates", "others/ca.crt"]
TURNED_AWAY = {  # what a SuperNode gives, and what it is told
    "without a key": (OWN, "All SuperNodes must be registered"),
    "in plain text": (["--insecure"], "Server disconnected"),
    "another authority": (OTHERS, "CERTIFICATE_VERIFY_FAILED"),
    "a wrong key": ([*OWN, "--auth-supernode-private-key", "others/supernode-0.key"], "Failed to activate SuperNode"),
}


def test_who_does_not_belong_is_turned_away(secure):
    secure.execute("python conf/deployment/credentials.py others --num-supernodes 1")
    started = {}
    for name, (credentials, _) in TURNED_AWAY.items():
        options = ["--superlink", f"127.0.0.1:{secure.port}", "--port", str(free_port()), "--max-retries", "1"]
        with (secure.folder / f"{name}.log").open("w") as log:
            command = [BIN / "flower-supernode", *credentials, *options, "--node-config", "partition-id=0"]
            started[name] = subprocess.Popen(command, cwd=secure.folder, env=secure.environment, stdout=log, stderr=log)
    for name, (_, reason) in TURNED_AWAY.items():
        status = started[name].wait(timeout=120)
        printed = (secure.folder / f"{name}.log").read_text()
        assert status != 0, printed
        assert "Exit Code: 305" in printed
        assert reason in printed


def test_a_node_whose_classes_cannot_be_matched_is_refused_by_name(secure):
    """Its classes have numbers, those of the others names."""
    numbered = secure.folder / "trial" / "data" / "numbered"
    write_folder(numbered, size=(16, 16), num=40, channels=1, labels=[0] * 20 + [1] * 20)
    command = secure.stop_node(3)
    secure.start_node(3, [part.replace("owner-3", "numbered") for part in command])
    num_runs = len(secure.run_folders)
    output = secure.start_run().communicate(timeout=900)[0]
    assert "only the numbers" in output
    assert "cannot be matched" in output
    assert len(secure.run_folders) == num_runs


def test_credentials_are_not_replaced(tmp_path):
    command = [str(BIN / "python"), "conf/deployment/credentials.py", str(tmp_path)]
    (tmp_path / "old.key").touch()
    result = subprocess.run(command, cwd=PROJECT, text=True, capture_output=True)
    assert result.returncode != 0
    assert "keys are not replaced" in result.stderr
