"""plot.ipynb draws every figure of the runs that have what it shows."""

import json
import re

import nbformat
from support.notebooks import NOTEBOOK, execute_notebook, text_of
from support.run_folders import copy_run


def test_the_notebook_draws_all_diagnostics(diagnosed, centralized, by_head_init, tmp_path):
    results = tmp_path / "results"
    for run in [*diagnosed, *centralized[1:], by_head_init[2]]:
        copied = copy_run(run, results / f"20250101-000000-{run.path.name}")
        if run in diagnosed:  # fewer images, since t-SNE takes seconds for many
            features, names = run.features()
            copied.write_features({name: values[:60].clone() for name, values in features.items()}, names)
    text = execute_notebook(tmp_path)
    assert text.count("No run") == 1  # of vehicles, since digits are none
    assert text.count("<image/png>") >= 11


def test_the_committed_notebook_has_the_pictures_of_real_runs():
    assert NOTEBOOK.stat().st_size < 2e6
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert all(cell.outputs for cell in notebook.cells if cell.cell_type == "code")
    text = text_of(notebook)
    assert text.count("<image/png>") >= 11
    assert "over 100 clients" in text
    assert "No run" not in text
    outputs = json.dumps([cell.get("outputs") for cell in notebook.cells])
    assert not re.search(r"/(tmp|home|work|root|Users)/", outputs)  # of the machine where it was made
