"""What is distributed: the app bundle that Flower builds, and the wheel, which works outside of the repository."""

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder
from support.flower import BIN

from fedbabu.reproduction.app_folder import app_folder

REPOSITORY = Path(__file__).parents[2]
MAX_BYTES = 1_000_000  # of a file on Flower Hub


def test_flower_builds_the_app_with_what_it_needs_and_nothing_else(tmp_path):
    from flwr.cli.build import build_fab_from_disk

    (tmp_path / "app.fab").write_bytes(build_fab_from_disk(REPOSITORY))
    with zipfile.ZipFile(tmp_path / "app.fab") as bundle:
        sizes = {info.filename: info.file_size for info in bundle.infolist()}
        config = tomllib.loads(bundle.read("pyproject.toml").decode())
    assert config["tool"]["flwr"]["app"]["fab-format-version"] == 1
    assert {
        "README.md",
        "LICENSE",
        "conf/config.yaml",
        "fedbabu/server_app.py",
        "fedbabu/data/known_classes.json",
    } <= set(sizes)
    assert not [name for name in sizes if name.startswith(("tests/", "results/", "docs/"))]
    assert max(sizes.values()) < MAX_BYTES


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder with what a wheel installs."""
    folder = tmp_path_factory.mktemp("wheel")
    (wheel,) = WheelBuilder(str(REPOSITORY)).build(directory=str(folder), versions=["standard"])
    with zipfile.ZipFile(wheel) as content:
        content.extractall(folder / "site-packages")
    return folder / "site-packages"


def in_wheel(installed: Path, code: str, tmp_path: Path) -> str:
    """What a Python program prints that imports the package as the wheel installs it, far from the repository."""
    environment = os.environ | {"PYTHONPATH": str(installed), "FEDBABU_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True).stdout


def test_a_wheel_knows_the_run_config_and_the_experiments(installed, tmp_path):
    code = (
        "import fedbabu.config as c; from fedbabu.reproduction.experiment import Experiment; print(c.__file__);"
        "print(c.default_run_config()['algorithm'], len(Experiment.compose(['experiment=table13']).cells))"
    )
    place, numbers = in_wheel(installed, code, tmp_path).splitlines()
    assert Path(place).is_relative_to(installed)
    assert numbers == "fedbabu 144"


def test_a_wheel_has_an_app_folder_for_flower(installed, tmp_path):
    code = "from fedbabu.reproduction.app_folder import app_folder; print(app_folder())"
    folder = Path(in_wheel(installed, code, tmp_path).strip())
    assert folder.is_relative_to(tmp_path / "cache")
    assert Path(in_wheel(installed, code, tmp_path).strip()) == folder
    for name in ("README.md", "LICENSE", "conf/quickstart.toml", "fedbabu/server_app.py"):
        assert (folder / name).read_bytes() == (REPOSITORY / name).read_bytes()
    # Flower refuses to leave out folders that a wheel does not have.
    built = subprocess.run([BIN / "flwr", "build", "--app", folder], cwd=tmp_path, text=True, capture_output=True)
    assert built.returncode == 0, built.stdout + built.stderr
    assert list(tmp_path.glob("*.fab"))
    assert not (folder / "fedbabu" / "_app").exists()
    assert [path for path in folder.parent.iterdir() if path.is_dir()] == [folder]


def test_in_the_repository_the_app_folder_is_the_repository():
    assert app_folder() == REPOSITORY
