"""The run folder: what a run writes, and how it is read."""

import json
import resource
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support.errors import config_error
from support.in_process import run_server

from fedbabu.config import TEMPLATES, RunConfig, with_protocol
from fedbabu.errors import ConfigError
from fedbabu.runs.folder import RunFolder
from fedbabu.runs.records import RoundRecord
from fedbabu.runs.results_folder import finished_runs, newest_per_algorithm


def rewrite_config(run: RunFolder, **keys) -> RunFolder:
    """Change run-config keys in a run folder; returns the run as it is read then."""
    content = json.loads((run.path / "config.json").read_text())
    content["run-config"] |= {key.replace("_", "-"): value for key, value in keys.items()}
    (run.path / "config.json").write_text(json.dumps(content))
    return RunFolder(run.path)


def test_the_configuration_the_data_and_the_versions_are_recorded(finished):
    content = json.loads((finished.run.path / "config.json").read_text())
    assert content["run-config"] == with_protocol(finished.config) == finished.run.config
    assert content["versions"]["torch"] == version("torch")
    assert content["versions"]["flwr"] == version("flwr")
    assert content["dataset"] == {
        "name": "digits",
        "image-shape": [1, 16, 16],
        "num-classes": 10,
        "num-train-examples": 1440,
    }
    assert content["federation"] == {"num-supernodes": 2, "devices": ["cpu"]}


def test_every_round_has_a_record(finished):
    rounds = finished.run.rounds
    assert [record.round for record in rounds] == [1, 2, 3, 4]
    assert [record.initial_accuracy is not None for record in rounds] == [False, True, False, True]
    for record in rounds:
        assert len(record.clients) == len(set(record.clients)) == 3
        assert record.num_examples == 3 * 240
        assert record.seconds >= record.train_seconds > 0


def test_the_bytes_are_those_of_the_body_for_every_client_whatever_the_messages(finished):
    body = sum(value.numel() * 4 for name, value in finished.run.model().items() if name.startswith("body."))
    assert finished.run.communication == [3 * 2 * body] * 4


def test_every_client_has_a_record(finished):
    clients = finished.run.clients
    assert [client["client"] for client in clients] == list(range(6))
    for client in clients:
        assert len(client["accuracy"]) == len(client["loss"]) == 3
        assert client["num-train-examples"] == 240
        assert set(client["without-head-accuracy"]) == set(TEMPLATES)
        values = [*client["accuracy"], *client["without-head-accuracy"].values()]
        assert all(0 <= value <= 100 for value in values)
        assert client["classes"] == sorted(set(client["classes"]))
    assert sum(client["num-test-examples"] for client in clients) == 300


def test_the_model_is_a_safetensors_file(finished):
    state = load_file(finished.run.path / "model.safetensors")
    assert all(torch.equal(value, state[name]) for name, value in finished.run.model().items())
    assert sum(value.numel() for value in state.values()) == sum(
        map(torch.numel, finished.run.build_model().state_dict().values())
    )


def test_the_summary_is_mean_and_population_std_over_clients(finished):
    personalized = np.array([client["accuracy"][-1] for client in finished.run.clients])
    summary = finished.run.summary
    assert summary["accuracy"]["personalized"] == pytest.approx(
        {
            "mean": personalized.mean(),
            "std": np.sqrt(((personalized - personalized.mean()) ** 2).mean()),
            "num-clients": 6,
        }
    )
    assert (summary["num-clients"], summary["missing"], summary["paper"]) == (6, {}, {})
    assert finished.run.rounds[-1].initial_accuracy == pytest.approx(summary["accuracy"]["initial"]["mean"])


def test_the_figures_are_png_and_svg_files(finished):
    names = ("accuracy_over_clients", "accuracy_over_finetune_epochs", "accuracy_over_rounds")
    plots = sorted((finished.run.path / "plots").iterdir())
    assert [plot.name for plot in plots] == [f"{name}.{ending}" for name in names for ending in ("png", "svg")]
    for plot in plots:
        assert plot.read_bytes().startswith(b"\x89PNG" if plot.suffix == ".png" else b"<?xml")


def test_the_summary_has_the_papers_numbers_that_it_is_given(copied_run):
    paper = {"personalized": {"mean": 87.85, "std": 8.57, "table": 13}}
    written = copied_run.summary
    (copied_run.path / "summary.json").unlink()
    copied_run.summarize({"last": {3: "it failed"}}, paper)
    assert not copied_run.finished
    copied_run.write_summary()
    assert RunFolder(copied_run.path).finished
    assert RunFolder(copied_run.path).summary == written | {
        "paper": paper, "missing": {"3": "it failed"}, "missing-by-round": {"last": {"3": "it failed"}},
        "best-round": None,
    }  # fmt: skip
    assert RunFolder(copied_run.path).clients_covered == "6 of 7 clients"


def test_accuracies_by_client_have_a_place_for_each_client(copied_run):
    (copied_run.path / "clients.jsonl").write_text(
        "".join(json.dumps(client) + "\n" for client in copied_run.clients if client["client"] != 2)
    )
    accuracies, by_client = copied_run.accuracies(), copied_run.accuracies_by_client()
    assert by_client.keys() == accuracies.keys()
    for metric, values in by_client.items():
        assert np.isnan(values[2])
        assert np.delete(values, 2).tolist() == accuracies[metric].tolist()


def test_a_run_lacks_the_coefficients_of_algorithms_that_were_added_later(copied_run):
    """It has their defaults, which it did not read, and can be read, compared and resumed like any other."""
    recorded = json.loads((copied_run.path / "config.json").read_text())
    before = copied_run.config
    del recorded["run-config"]["proximal-mu"]
    (copied_run.path / "config.json").write_text(json.dumps(recorded))
    run = RunFolder(copied_run.path)
    assert run.config == before
    assert run.run_config == RunConfig.from_recorded(before)


def test_personalized_accuracy_after_fewer_epochs(finished):
    after_one = finished.run.accuracies(finetune_epochs=1)["personalized"]
    assert after_one.tolist() == [client["accuracy"][1] for client in finished.run.clients]


def test_clients_without_test_images_of_a_kind_are_nan(copied_run):
    clients = copied_run.clients
    for client in clients:
        known = client["client"] == 0
        client["id-accuracy"], client["ood-accuracy"] = [50.0, 60.0, 70.0], [40.0 if known else None, None, None]
    (copied_run.path / "clients.jsonl").write_text("".join(json.dumps(client) + "\n" for client in clients))
    accuracies = copied_run.accuracies()
    assert list(accuracies) == [
        "initial", "without-head", "personalized", "id-initial", "id-personalized", "ood-initial",
    ]  # fmt: skip
    assert accuracies["id-personalized"].tolist() == [70.0] * 6
    copied_run.summarize({}, {})
    assert copied_run.summary["accuracy"]["ood-initial"] == {"mean": 40.0, "std": 0.0, "num-clients": 1}


def test_with_client_states_there_is_no_initial_accuracy(copied_run):
    assert list(rewrite_config(copied_run, algorithm="fedper").accuracies()) == ["without-head", "personalized"]


def test_a_round_is_appended_and_an_incomplete_line_ignored(copied_run):
    copied_run.write_rounds([RoundRecord(1)])
    copied_run.append_round(RoundRecord(2, train_loss=0.5))
    with (copied_run.path / "rounds.jsonl").open("a") as file:
        file.write('{"round": 3, "fai')
    assert copied_run.rounds == [RoundRecord(1), RoundRecord(2, train_loss=0.5)]


def test_a_round_that_cannot_be_appended_names_the_file(tmp_path):
    with pytest.raises(OSError, match=r"rounds\.jsonl"):
        RunFolder(tmp_path / "nowhere").append_round(RoundRecord(1))


def test_a_round_that_does_not_fit_on_the_disk_leaves_the_file_as_before(copied_run):
    path = copied_run.path / "rounds.jsonl"
    before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 20, limits[1]))  # room for a part of the line
    try:
        with pytest.raises(OSError, match=str(path)):
            copied_run.append_round(RoundRecord(4))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before


def test_a_run_of_another_version_is_refused_when_its_configuration_is_checked(copied_run):
    assert rewrite_config(copied_run, cuda_graph=False).run_config.num_clients == 6  # a key that is gone
    with config_error("from-the-future"):
        rewrite_config(copied_run, from_the_future=1).run_config  # noqa: B018


def test_finished_runs_are_found_and_others_are_not(finished, tmp_path):
    assert [run.path for run in finished_runs(finished.config["results-dir"])] == [finished.run.path]
    assert finished_runs(tmp_path) == []
    (tmp_path / "interrupted").mkdir()
    (tmp_path / "interrupted" / "rounds.jsonl").write_text("{}\n")
    assert finished_runs(tmp_path) == []


@pytest.mark.parametrize("text", ["[]", "{", "", "{}", '{"run-config": []}'])
def test_what_is_not_a_run_is_left_out_and_named(finished, copied_run, capsys, text):
    broken = copied_run.path.parent / "broken"
    broken.mkdir()
    (broken / "config.json").write_text(text)
    assert [run.path for run in finished_runs(copied_run.path.parent)] == [copied_run.path]
    assert f"{broken} is left out" in capsys.readouterr().out


def test_runs_to_compare_are_the_newest_of_each_algorithm_in_one_setting(finished, copied_run):
    """All are copies of one run, with other names and configurations."""
    results = copied_run.path.parent
    configs = {
        "1-fedavg": {"algorithm": "fedavg", "ditto_lambda": 9.0, "dirichlet_beta": 9.0, "record": "features"},
        "2-other-setting": {"num_finetune_epochs": 3},
        "3-older": {},
        "4-newest": {"seed": 1, "results_dir": "elsewhere"},
    }
    for name, keys in configs.items():
        (results / name).mkdir()
        for file in ("config.json", "summary.json"):
            (results / name / file).write_bytes((finished.run.path / file).read_bytes())
        rewrite_config(RunFolder(results / name), **keys)
    copied_run.path.rename(results / "0-first")
    runs = newest_per_algorithm(finished_runs(results))
    assert [run.path.name for run in runs] == ["1-fedavg", "4-newest"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"algorithm": "fedx"}, "algorithm = 'fedx'"),
        ({"shards-per-client": 11}, "shards-per-client = 11"),
        ({"dataset": "cifar10"}, "Hub"),
        ({"label-column": "kind"}, "label-column = 'kind'"),
    ],
)
def test_wrong_input_ends_the_run_before_anything_is_written(run_config, change, named):
    with config_error(named):
        run_server(run_config | change)
    results = Path(run_config["results-dir"])
    assert not results.exists() or not list(results.iterdir())


def test_a_results_folder_that_cannot_be_written_is_refused(run_config, tmp_path):
    (tmp_path / "file").write_text("")
    results = tmp_path / "file" / "results"
    with config_error(f"results-dir = '{results}'", "Not a directory"):
        run_server(run_config | {"results-dir": str(results)})


def test_a_run_is_running_while_it_is_locked(copied_run):
    assert not copied_run.is_running
    with copied_run.locked():
        assert copied_run.is_running
        with pytest.raises(ConfigError, match=str(copied_run.path)), RunFolder(copied_run.path).locked():
            pass
    assert not copied_run.is_running
