"""plot.ipynb, run from top to bottom."""

from pathlib import Path

import nbformat
from nbclient import NotebookClient

from support import PROJECT

NOTEBOOK = PROJECT / "plot.ipynb"


def execute_notebook(folder: Path) -> str:
    """Run the notebook in a folder and return the text of all its outputs, with <image/png> for a picture."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    return text_of(notebook)


def text_of(notebook: nbformat.NotebookNode) -> str:
    """The text of a notebook's outputs, with <image/png> for a picture."""
    text = ""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            shown = "<image/png>" if "image/png" in data else data.get("text/plain", "")
            text += output.get("text", "") + shown + "\n"
    return text
