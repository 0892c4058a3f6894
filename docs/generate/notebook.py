"""The notebook as a page: its text, its code, and what it showed."""

import base64
import re
from pathlib import Path
from typing import Any

import nbformat

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "first_look.ipynb"


def page() -> str:
    """The Markdown of the page."""
    parts = []
    for cell in nbformat.read(NOTEBOOK, as_version=4).cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
        else:
            parts.append(f"```python\n{cell.source}\n```")
            parts += filter(None, map(_shown, cell.outputs))
    return "\n\n".join(parts) + "\n"


def _shown(output: Any) -> str:
    """An output in the richest form that it has, as HTML that Markdown leaves alone."""
    data = output.get("data", {})
    for kind in ("image/png", "image/jpeg"):
        if kind in data:
            content = base64.b64encode(base64.b64decode(data[kind])).decode()
            return f'<img alt="Output" src="data:{kind};base64,{content}">'
    if "text/html" in data:
        inside = re.sub(r"<style.*?</style>", "", data["text/html"], flags=re.DOTALL)
        inside = "\n".join(line for line in inside.splitlines() if line.strip())
        return f'<div class="notebook-output">\n{inside}\n</div>'
    text = data.get("text/plain") or output.get("text", "")
    return f"```text\n{text.rstrip()}\n```" if text.strip() else ""
