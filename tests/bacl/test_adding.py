"""What the documents on adding something add works, by their own tests."""

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
    [("adding-a-method.md", 3), ("adding-an-indicator.md", 2), ("adding-a-backbone.md", 2)],
)
def test_document_passes_its_own_test(document, blocks):
    found = python_blocks(document)
    assert len(found) == blocks
    written: dict = {"__name__": "added"}
    for block in found:
        exec(block, written)
    tests = [value for name, value in written.items() if name.startswith("test_")]
    assert tests
    for test in tests:
        test()
