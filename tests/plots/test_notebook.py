"""plot.ipynb draws every figure of the runs that have what it shows; its kept outputs are of the published runs."""

import json
import re

import nbformat
import pytest
from support import PROJECT
from support.notebooks import NOTEBOOK, execute_notebook, text_of
from support.run_folders import copy_run

NO_RUNS = "There are no runs of what this figure shows"


@pytest.mark.slow
def test_the_notebook_draws_all_diagnostics(diagnosed, centralized, by_head_init, tmp_path):
    results = tmp_path / "results"
    for run in [*diagnosed, *centralized[1:], by_head_init[2]]:
        copied = copy_run(run, results / f"20250101-000000-{run.path.name}")
        if run in diagnosed:  # fewer images, since t-SNE takes seconds for many
            features, names = run.features()
            copied.write_features({name: values[:60].clone() for name, values in features.items()}, names)
    text = execute_notebook(tmp_path)
    assert text.count(NO_RUNS) == 1  # of vehicles, since digits are none
    assert text.count("<image/png>") >= 9


def test_the_kept_outputs_are_those_of_the_published_runs(tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "paper").symlink_to(PROJECT / "results" / "paper")
    kept = nbformat.read(NOTEBOOK, as_version=4)
    assert text_of(kept) == execute_notebook(tmp_path)
    assert text_of(kept).count("<image/png>") == 4
    assert NOTEBOOK.stat().st_size < 1e6
    outputs = json.dumps([cell.get("outputs") for cell in kept.cells])
    assert not re.search(r"/(tmp|home|work|root|Users)/", outputs)  # of the machine where it was made
