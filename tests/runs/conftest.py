"""One finished run, made once for all tests of this folder, and a folder that a test may change."""

import shutil
from contextlib import redirect_stdout
from io import StringIO
from types import SimpleNamespace

import pytest
from support.in_process import run_server

from fedbabu.config import default_run_config
from fedbabu.runs.folder import RunFolder


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> SimpleNamespace:
    """A finished run of six clients with its figures: `run`, `grid`, the printed `output` and its `config`."""
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
        run, grid = run_server(config, figures=True)
    return SimpleNamespace(run=run, grid=grid, output=output.getvalue(), config=config)


@pytest.fixture
def copied_run(finished, tmp_path) -> RunFolder:
    """A copy of the finished run, in a folder `copies` of run folders, which a test may change."""
    return RunFolder(shutil.copytree(finished.run.path, tmp_path / "copies" / finished.run.path.name))
