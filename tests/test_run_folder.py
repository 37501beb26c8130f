"""The run folder as a reader meets it: what is in it, how it is read back, and what is said on the way."""

import json
import re
from importlib.metadata import version

import numpy as np
import pytest
import torch
from in_process import InProcessGrid, run_server
from safetensors.torch import load_file

from fedbabu import server_app
from fedbabu.errors import ConfigError
from fedbabu.runs.folder import finished_runs, newest_per_algorithm
from fedbabu.runs.progress import final_report


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run, its grid and all that it printed."""
    from contextlib import redirect_stdout
    from io import StringIO

    from fedbabu.config import default_run_config

    config = default_run_config() | {
        "dataset": "digits",
        "num-clients": 6,
        "shards-per-client": 5,
        "fraction-train": 0.5,
        "num-server-rounds": 4,
        "num-local-epochs": 1,
        "num-finetune-epochs": 2,
        "evaluate-every": 2,
        "results-dir": str(tmp_path_factory.mktemp("results")),
    }
    with redirect_stdout(StringIO()) as output:
        run, grid = run_server(config)
    return run, grid, output.getvalue(), config


def test_the_configuration_and_the_versions_are_kept(finished):
    run, _, _, config = finished
    content = json.loads((run.path / "config.json").read_text())
    assert content["run-config"] == config == run.config
    assert content["versions"]["torch"] == version("torch")
    assert content["versions"]["flwr"] == version("flwr")
    assert content["dataset"] == {
        "name": "digits",
        "image-shape": [1, 16, 16],
        "num-classes": 10,
        "num-train-examples": 1440,
    }
    assert content["federation"] == {"num-supernodes": 2, "devices": ["cpu"]}


def test_a_line_per_round(finished):
    run, grid, _, _ = finished
    rounds = run.rounds
    assert [record["round"] for record in rounds] == [1, 2, 3, 4]
    assert ["initial-accuracy" in record for record in rounds] == [False, True, False, True]
    for record in rounds:
        assert len(record["clients"]) == len(set(record["clients"])) == 3
        assert record["num-examples"] == 3 * 240
        assert record["seconds"] >= record["train-seconds"] > 0
    sizes = {name: value.numel() * value.element_size() for name, value in run.model().items()}
    model = sum(sizes.values())
    trained = [len(messages) for messages in _by_round(grid, "train").values()]
    evaluated = [len(_by_round(grid, "evaluate").get(r, [])) for r in (1, 2, 3, 4)]
    for record, train, evaluate in zip(rounds, trained, evaluated, strict=True):
        # A little over the parameters' own bytes: Flower's arrays carry a header each.
        assert 1 <= record["bytes-sent"] / ((train + evaluate) * model) < 1.02


def _by_round(grid, message_type):
    messages = {}
    for request, _ in grid.of_type(message_type):
        messages.setdefault(request.content["task"]["server_round"], []).append(request)
    return messages


def test_only_the_body_is_received(finished):
    run, grid, _, _ = finished
    received = sum(len(array.data) for _, reply in grid.of_type("train") for array in reply.content["arrays"].values())
    assert received == sum(record["bytes-received"] for record in run.rounds)


def test_a_line_per_client(finished):
    run, _, _, _ = finished
    rows = run.clients
    assert [row["client"] for row in rows] == list(range(6))
    for row in rows:
        assert len(row["accuracy"]) == len(row["loss"]) == 3
        assert row["num-train-examples"] == 240
        assert all(0 <= value <= 100 for value in [*row["accuracy"], row["without-head-accuracy"]])
        assert row["classes"] == sorted(set(row["classes"]))
    assert sum(row["num-test-examples"] for row in rows) == 300


def test_the_model_is_safetensors(finished):
    run, _, _, _ = finished
    state = load_file(run.path / "model.safetensors")
    assert all(torch.equal(value, state[name]) for name, value in run.model().items())
    assert sum(value.numel() for value in state.values()) == 112_586


def test_the_summary_is_mean_and_population_std_over_clients(finished):
    run, _, _, _ = finished
    personalized = np.array([row["accuracy"][-1] for row in run.clients])
    summary = run.summary
    assert summary["accuracy"]["personalized"] == pytest.approx(
        {
            "mean": personalized.mean(),
            "std": np.sqrt(((personalized - personalized.mean()) ** 2).mean()),
            "num-clients": 6,
        }
    )
    assert summary["num-clients"] == 6
    assert summary["paper"] == {}
    assert run.rounds[-1]["initial-accuracy"] == pytest.approx(summary["accuracy"]["initial"]["mean"])


def test_plots_are_there_as_png_and_svg(finished):
    run, _, _, _ = finished
    names = ("accuracy_over_clients", "accuracy_over_finetune_epochs", "accuracy_over_rounds")
    plots = sorted((run.path / "plots").iterdir())
    assert [plot.name for plot in plots] == [f"{name}.{ending}" for name in names for ending in ("png", "svg")]
    for plot in plots:
        assert plot.read_bytes().startswith(b"\x89PNG" if plot.suffix == ".png" else b"<?xml")


def test_what_a_run_says(finished):
    run, _, output, _ = finished
    lines = output.splitlines()
    assert "fedbabu on digits: 6 clients (s = 5), 1440 training and 300 test images" in lines
    rounds = [line for line in lines if line.startswith("round")]
    assert len(rounds) == 4
    assert re.fullmatch(r"round 1/4   loss \d\.\d{4}   +\d+\.\d s   \d+ (s|min) left", rounds[0])
    assert re.search(r"left   initial accuracy \d+\.\d\d %$", rounds[1])
    assert "left" not in rounds[3]
    for metric in ("Initial", "Without head", "Personalized"):
        assert re.search(rf"{metric} +│ +\d+\.\d\d ± \d+\.\d\d", output)
    assert lines[-1] == f"Run folder: {run.path}"
    assert run.path.is_absolute()


def test_finished_runs_are_found_and_unfinished_ones_are_not(finished, tmp_path):
    run, _, _, config = finished
    assert [found.path for found in finished_runs(config["results-dir"])] == [run.path]
    assert finished_runs(tmp_path) == []
    (tmp_path / "interrupted").mkdir()
    (tmp_path / "interrupted" / "rounds.jsonl").write_text("{}\n")
    assert finished_runs(tmp_path) == []


def test_runs_to_compare_are_the_newest_of_each_algorithm_in_one_setting(run_config):
    config = run_config | {"num-server-rounds": 1, "num-local-epochs": 1, "num-finetune-epochs": 1}
    fedavg, _ = run_server(config | {"algorithm": "fedavg", "ditto-lambda": 9.0, "dirichlet-beta": 9.0})
    run_server(config | {"num-clients": 5})
    run_server(config)
    newest, _ = run_server(config | {"seed": 1})
    runs = newest_per_algorithm(finished_runs(config["results-dir"]))
    assert [run.path for run in runs] == [fedavg.path, newest.path]


def test_the_report_shows_the_papers_cells_beside_ours(finished, monkeypatch):
    run, _, _, _ = finished
    summary = run.summary | {"paper": {"personalized": {"mean": 87.85, "std": 8.57, "table": 13}}}
    monkeypatch.setattr(type(run), "summary", summary)
    report = final_report(run)
    assert "87.85 ± 8.57 (Table 13)" in report
    assert f"{summary['accuracy']['personalized']['mean'] - 87.85:+.2f}" in report


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"algorithm": "fedx"}, "algorithm = 'fedx' is not allowed: it must be 'fedavg' or 'fedbabu' or"),
        ({"fraction-train": 1.2}, "fraction-train = 1.2 is not allowed"),
        ({"shards-per-client": 11}, "shards-per-client = 11 is more than the labels allow"),
        ({"num-clients": 5000}, "num-clients = 5000 is too many for the 1440 training images"),
        ({"dataset": "cifar10"}, "The Hub cannot be reached"),
        ({"label-column": "kind"}, "has no label-column = 'kind': the train split's columns are image, label."),
    ],
)
def test_bad_input_ends_the_run_before_anything_is_written(run_config, change, sentence):
    with pytest.raises(ConfigError) as error:
        run_server(run_config | change)
    assert sentence in str(error.value)
    assert finished_runs(run_config["results-dir"]) == []
    from pathlib import Path

    results = Path(run_config["results-dir"])
    assert not results.exists() or not list(results.iterdir())


def test_an_unwritable_results_folder(run_config, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"results-dir = '.*/file/results' cannot be written \(.*Not a directory\)"):
        run_server(run_config | {"results-dir": str(tmp_path / "file" / "results")})


def test_too_few_nodes_for_the_clients(run_config, monkeypatch, tmp_path):
    """Nodes with their own data offer one client each; the others must come from somewhere."""
    from fedbabu.config import RunConfig
    from fedbabu.data.digits import write_digits

    monkeypatch.setattr(server_app, "NODE_WAIT_SECONDS", 0.2)
    write_digits(tmp_path)
    run_config |= {"image-column": "image", "label-column": "label"}
    grid = InProcessGrid(run_config, node_configs=[{"data-path": str(tmp_path), "partition-id": 0}])
    sentence = re.escape("7 of them (client 1 for one) are on none of the 1 connected SuperNodes")
    with pytest.raises(ConfigError, match=sentence):
        server_app.discover(grid, RunConfig.from_flower(run_config))


def test_whether_a_run_is_going_on(finished):
    run, _, _, _ = finished
    assert not run.going_on
    with run.locked():
        assert run.going_on
    assert not run.going_on
