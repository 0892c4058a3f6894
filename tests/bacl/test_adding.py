"""What the documents on adding something add works, by their own tests."""

import importlib
import inspect

import pytest
from documents import python_blocks
from foreign import forgotten

from bacl.backbones import BACKBONES


@pytest.fixture(autouse=True)
def nothing_stays():
    backbones = dict(BACKBONES)
    with forgotten():
        yield
        BACKBONES.clear()
        BACKBONES.update(backbones)


@pytest.mark.parametrize(
    ("document", "blocks"),
    [
        ("extending/adding-a-method.md", 3),
        ("extending/adding-an-indicator.md", 2),
        ("extending/adding-a-backbone.md", 2),
        ("extending/adding-a-dataset-format.md", 2),
    ],
)
def test_document_passes_its_own_test(document, blocks, tmp_path, monkeypatch):
    found = python_blocks(document)
    assert len(found) == blocks
    (tmp_path / "added.py").write_text("\n\n".join(found), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    written = vars(importlib.import_module("added"))
    tests = [value for name, value in written.items() if name.startswith("test_")]
    assert tests
    for test in tests:
        takes_folder = "tmp_path" in inspect.signature(test).parameters
        test(tmp_path / "folder") if takes_folder else test()
