"""The method that `docs/adding-a-method.md` adds is one."""

import re
from pathlib import Path

from bacl.variants import METHODS

DOCUMENT = Path(__file__).parents[3] / "docs" / "adding-a-method.md"


def test_method_of_the_document_passes_its_own_test():
    blocks = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    written: dict = {"__name__": "focal"}
    try:
        for block in blocks:
            exec(block, written)
        written["test_loss_is_torchvisions"]()
    finally:
        METHODS.module_dict.pop("focal", None)
    assert len(blocks) == 3
