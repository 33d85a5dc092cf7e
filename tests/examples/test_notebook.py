"""The notebook of examples/ runs from its first cell to its last."""

from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

pytestmark = pytest.mark.filterwarnings("default")  # what other libraries deprecate is not for users to mend
SOURCE = Path(__file__).parents[2] / "examples" / "notebook.ipynb"


def test_notebook(tmp_path, monkeypatch):
    """Its cells raise nothing, and show what they are there to show."""
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")  # as Jupyter sets it
    notebook = nbformat.read(SOURCE, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)  # which would be of another version
    for cell in notebook.cells:  # half of the samples finds the same
        cell.source = cell.source.replace("samples=64", "samples=32")
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == 4
    printed = "".join(output.get("text", "") for output in outputs)
    assert "'bus' misleads about this picture" in printed
