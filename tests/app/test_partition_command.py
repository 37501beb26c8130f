"""`fedbabu partition` shows and draws a partition before anything is trained."""

import re

import pytest
from PIL import Image

from fedbabu.cli import main

DIGITS = "dataset='digits' num-clients=20"


def run(*arguments) -> object:
    """Run the command; returns its exit status, or the sentence of an error."""
    with pytest.raises(SystemExit) as stopped:
        main(["partition", *map(str, arguments)])
    return stopped.value.code


def test_it_prints_and_draws_a_partition(tmp_path, capsys):
    picture = tmp_path / "folder" / "picture.png"
    keys = f"{DIGITS} partition='dirichlet' dirichlet-beta=2.0"
    assert run("--run-config", keys, "--output", picture) == 0
    printed = capsys.readouterr().out
    assert "digits: 20 clients (Dirichlet, β = 2.0)" in printed
    assert "1440 of 1440 training images and 300 of 300 test images" in printed
    assert re.search(r"training images +20.0 +72.0", printed)
    assert f"Picture: {picture}" in printed
    assert Image.open(picture).size[0] > 1000


def test_the_picture_is_beside_the_results(tmp_path, capsys):
    assert run("--run-config", f"{DIGITS} results-dir='{tmp_path}'") == 0
    assert (tmp_path / "partitions" / "digits-shards-2-of-20-seed-42.png").exists()
    assert str(tmp_path) in capsys.readouterr().out


def test_the_name_of_the_picture_is_completed(tmp_path, capsys):
    for name, written in (("", "digits-shards-2-of-20-seed-42.png"), ("some", "some.png"), ("v1.2", "v1.2.png")):
        output = tmp_path / name
        assert run("--run-config", DIGITS, "--output", output) == 0
        assert f"Picture: {tmp_path / written}" in capsys.readouterr().out
        assert (tmp_path / written).exists()


@pytest.mark.parametrize("output", ["file.png/a.xyz", "file.png/a.png"])
def test_a_picture_that_cannot_be_written_is_one_sentence(tmp_path, output):
    (tmp_path / "file.png").touch()
    sentence = run("--run-config", DIGITS, "--output", tmp_path / output)
    assert str(tmp_path / output) in sentence
    assert "\n" not in sentence


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--run-config", "partition='even'"], "partition = 'even'"),
        (["--run-config", "dataset='digits' shards-per-client=11"], "shards-per-client = 11"),
        (["--run-config", "some.toml", "--run-config", "seed=1"], "some.toml"),
        (["--run-config", "nowhere.toml"], "nowhere.toml"),
        (["--run-config", "seed=1 dataset=digits"], "dataset=digits"),
    ],
)
def test_a_wrong_run_config_is_one_sentence_that_names_it(arguments, named):
    sentence = run(*arguments)
    assert named in sentence
    assert "\n" not in sentence
