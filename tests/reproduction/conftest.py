"""Run folders with made-up accuracies for the tests of this folder."""

import pytest
from support.fake_runs import FakeRuns


@pytest.fixture
def fake_runs(tmp_path) -> FakeRuns:
    """Makes finished runs in a folder of run folders."""
    return FakeRuns(tmp_path / "runs")
