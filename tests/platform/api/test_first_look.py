"""The notebook of the documentation, executed."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[3] / "docs/notebooks/first_look.ipynb"


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_notebook_runs_and_shows_tables_bars_and_a_picture(tmp_path, monkeypatch):
    """With fewer steps than it has, which change no cell's kind of output."""
    monkeypatch.setenv("BACL_STORE", str(tmp_path / "store"))
    notebook = nbformat.read(NOTEBOOK, 4)
    first = notebook.cells[1]
    first.source, changed = re.subn(
        r'"iterations": \d+, "milestones": \[\d+\], "warmup": \d+',
        '"iterations": 8, "milestones": [6], "warmup": 4',
        first.source,
    )
    assert changed == 2
    client = NotebookClient(
        notebook, timeout=400, resources={"metadata": {"path": str(NOTEBOOK.parent)}}
    )
    client.execute()
    plan, run, by_category, report, comparison, picture, entries = (
        cell.outputs for cell in notebook.cells if cell.cell_type == "code"
    )
    assert "to run" in plan[-1].data["text/html"]
    assert "AP_r" in run[-1].data["text/html"]
    widget = "application/vnd.jupyter.widget-view+json"
    assert any(widget in one.get("data", {}) for one in run)  # bars of progress
    assert "dotted_circle" in by_category[-1].data["text/html"]
    assert "softmax" in report[-1].data["text/html"]
    assert "AP_r" in comparison[-1].data["text/html"]
    assert picture[-1].data["image/png"]
    assert entries[-1].data["text/plain"].startswith("[")
