"""The Python that documents show, for tests that run it."""

import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def python_blocks(document: str) -> list[str]:
    """The blocks of a file in docs/, in order; those in other languages are left out."""
    return re.findall(r"```python\n(.*?)```", (DOCS / document).read_text("utf-8"), re.DOTALL)
