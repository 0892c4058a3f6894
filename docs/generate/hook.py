"""What MkDocs does to the pages beyond Markdown; `hooks` of mkdocs.yml names this file.

- Pages that follow from the code are generated: see PAGES.
- Links to files outside of docs/ become plain text, once the file is known to exist; those to the
  notebook lead to its page.
- Formulas become MathML, and diagrams part of their page, so that they follow its colours.
- A page that would fetch something from the internet fails the build.
"""

import importlib.util
import os
import re
from html import unescape
from pathlib import Path
from types import ModuleType
from typing import Any

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

HERE = Path(__file__).resolve().parent
NOTEBOOK = HERE.parent / "notebooks" / "first_look.ipynb"
PAGES = {
    "methods/cards.md": "methods",
    "commands.md": "commands",
    "fields.md": "fields",
    "start/notebook.md": "notebook",
}
"""The module beside this one whose `page()` returns the Markdown of each generated page."""


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages."""
    for path, name in PAGES.items():
        if (HERE / f"{name}.py").exists():
            files.append(File.generated(config, path, content=_module(name).page()))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Replace links that leave docs/, or lead to the notebook."""
    docs = Path(config.docs_dir).resolve()
    folder = (docs / page.file.src_path).parent

    def replaced(link: re.Match[str]) -> str:
        text, target = link.groups()
        path = (folder / target.split("#")[0]).resolve()
        if path == NOTEBOOK:
            return f"[{text}]({os.path.relpath(docs / 'start/notebook.md', folder)})"
        if "://" in target or target.startswith(("#", "mailto:")) or docs in path.parents:
            return link.group()
        if not path.exists():
            raise PluginError(f"{page.file.src_path}: the link to {target} leads to no file")
        return text

    return re.sub(r"(?<!!)\[([^\]\[]+)\]\(([^)\s]+)\)", replaced, markdown)


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:
    """Put formulas and diagrams into the page."""
    folder = (Path(config.docs_dir) / page.file.src_path).parent
    html = re.sub(
        r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>',
        lambda formula: _mathml(formula[2], formula[1] == "div"),
        html,
        flags=re.DOTALL,
    )
    return re.sub(
        r'<img alt="([^"]*)" src="([^":]+\.svg)"\s*/?>',
        lambda image: _inlined(image[1], folder / image[2]),
        html,
    )


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Fail where a browser would fetch something from another server."""
    fetched = re.findall(
        r'<(?:script|img|iframe|source)\b[^>]*\bsrc="((?:https?:)?//[^"]+)"'
        r'|<link\b[^>]*\brel="(?:stylesheet|preconnect|icon|preload)"[^>]*href="((?:https?:)?//[^"]+)"'
        r'|<link\b[^>]*href="((?:https?:)?//[^"]+)"[^>]*\brel="(?:stylesheet|preconnect|icon|preload)"',
        output,
    )
    if fetched:
        first = next(filter(None, fetched[0]))
        raise PluginError(f"{page.file.src_path}: expected nothing from the internet, got {first}")
    return output


def _module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"docs_generate_{name}", HERE / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _mathml(latex: str, block: bool) -> str:
    return convert(unescape(latex).strip(), display="block" if block else "inline")


def _inlined(title: str, path: Path) -> str:
    """An SVG as an element; relative to the Markdown file, not to the page."""
    drawing = re.search(r"<svg.*</svg>", path.read_text(encoding="utf-8"), re.DOTALL)
    if drawing is None:
        raise PluginError(f"{path}: expected an SVG")
    return drawing.group().replace("<svg", f'<svg role="img" aria-label="{title}"', 1)
