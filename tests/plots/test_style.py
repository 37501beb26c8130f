"""Titles, labels and looks of figures."""

import json
from dataclasses import replace
from types import SimpleNamespace

from matplotlib.colors import to_rgb
from PIL import Image
from support.figures import lines
from support.run_folders import copy_run

from fedbabu.algorithms import ALGORITHMS
from fedbabu.plots.accuracy import accuracy_over_rounds
from fedbabu.plots.style import (
    algorithm_label,
    common_title,
    distinguishing_parts,
    labels,
    looks,
    looks_of,
    save_figure,
    setting_title,
)
from fedbabu.runs.folder import RunFolder


def test_labels_have_what_distinguishes_the_runs(federated, tmp_path):
    other_seed = copy_run(federated[1], tmp_path / "seed", seed=3)
    assert list(lines(accuracy_over_rounds([federated[1], other_seed]))) == ["FedBABU, seed 7", "FedBABU, seed 3"]
    usual, unusual = (
        copy_run(federated[0], tmp_path / f"{mu}", algorithm="fedprox", proximal_mu=mu) for mu in (0.01, 1.0)
    )
    assert [algorithm_label(run) for run in (usual, unusual)] == ["FedProx", "FedProx, proximal-mu = 1.0"]


def test_a_label_says_if_clients_are_missing(federated, tmp_path):
    run = copy_run(federated[0], tmp_path / "run")
    summary = run.summary | {"missing": {"8": "it failed"}, "missing-by-round": {"last": {"8": "it failed"}}}
    (run.path / "summary.json").write_text(json.dumps(summary))
    assert labels([RunFolder(run.path)]) == ["FedAvg, 8 of 9 clients"]


def test_a_title_has_the_setting_without_what_is_as_in_the_paper(federated, tmp_path):
    title = setting_title(federated[0])
    assert title == ("digits, 1,440 images, 4convNet: N = 8, s = 2, f = 0.25, τ = 2, K = 3, τ_f = 2, batch-size = 40")
    assert setting_title(federated[1]) == title
    keys = {"partition": "dirichlet", "momentum": 0.5, "seed": 1, "server_data_fraction": 0.1}
    run = copy_run(federated[0], tmp_path / "run", **keys)
    other_title = setting_title(run)
    assert "Dirichlet, β = 0.5, f = 0.25" in other_title
    assert "τ_f = 2, p = 0.1, " in other_title
    assert {"momentum = 0.5", "batch-size = 40", "server-part = full"} <= set(other_title.split(", "))
    common = "digits, 1,440 images, 4convNet: N = 8, f = 0.25, τ = 2, K = 3, τ_f = 2, batch-size = 40"
    assert common_title([federated[0], run]) == common
    different = "Dirichlet, β = 0.5, p = 0.1, momentum = 0.5, server-part = full"
    assert distinguishing_parts([federated[0], run]) == ["s = 2", different]
    assert distinguishing_parts(federated) == ["", ""]
    other_data = copy_run(federated[0], tmp_path / "data", {"name": "cifar10", "num-train-examples": 50_000})
    assert common_title([federated[0], other_data]) == "Several settings"


def test_a_title_does_not_name_what_the_protocol_fixes(federated, tmp_path):
    keys = {"algorithm": "fedrep", "protocol": "code", "momentum": 0.5, "aggregation_weights": "clients"}
    as_in_the_code = copy_run(federated[0], tmp_path / "run", **keys)
    assert algorithm_label(as_in_the_code) == "FedRep, protocol = code"
    assert "momentum" not in setting_title(as_in_the_code)
    assert "aggregation-weights" not in setting_title(as_in_the_code)


def test_a_title_leaves_out_the_key_in_which_runs_differ(federated):
    assert "s = 2" not in setting_title(federated[0], "shards-per-client")
    assert "τ_f" not in setting_title(federated[0], "num-finetune-epochs")


def test_a_title_of_centralized_training(centralized):
    titles = [setting_title(run, "server-part") for run in centralized]
    assert len(set(titles)) == 1
    assert "centralized, 3 epochs" in titles[0]


def test_no_two_of_many_lines_look_the_same():
    many = looks(30)
    assert len({(look["color"], look["linestyle"], look["marker"]) for look in many}) == 30
    assert len({look["marker"] for look in many[:12]}) == 12  # without colours


def test_runs_of_an_algorithm_look_alike_if_they_differ_in_their_seed_alone(federated, tmp_path):
    first, other = federated
    again = copy_run(first, tmp_path / "seed", seed=3)
    looks = looks_of([first, again, other])
    assert looks[0] == looks_of([first, other])[0]
    assert looks[0]["marker"] == looks[1]["marker"] != looks[2]["marker"]
    assert len({look["color"] for look in looks}) == 3
    assert sum(to_rgb(looks[1]["color"])) > sum(to_rgb(looks[0]["color"]))  # lighter
    of_another_setting = copy_run(first, tmp_path / "setting", head_init="similar")
    assert len({look["marker"] for look in looks_of([first, of_another_setting])}) == 2


def test_algorithms_that_a_user_adds_do_not_look_like_another(federated, tmp_path, monkeypatch):
    """There are more of them than colours and markers."""
    added = [replace(ALGORITHMS["fedavg"], name=f"added-{number}", title="") for number in range(12)]
    monkeypatch.setattr("fedbabu.plots.style.ALGORITHMS", {**ALGORITHMS, **{each.name: each for each in added}})
    names = [*ALGORITHMS, *(each.name for each in added)]
    runs = [SimpleNamespace(config={"algorithm": name, "seed": 1}) for name in names]
    looks = looks_of(runs)
    assert len({(look["color"], look["linestyle"], look["marker"]) for look in looks}) == len(names)


def test_a_figure_is_written_as_its_ending_says(federated, tmp_path):
    figure = accuracy_over_rounds(federated)
    for ending in ("png", "svg"):
        save_figure(figure, tmp_path / f"some.{ending}")
    assert Image.open(tmp_path / "some.png").width > 1000
    assert "<svg" in (tmp_path / "some.svg").read_text()
