"""`bacl bench`: what our steps cost beside the same steps done by others, as ratios in one run.

Machines differ and so do their loads: only ratios of what was measured in turns are compared.
"""

import ast
import importlib
import pkgutil
from pathlib import Path
from typing import TYPE_CHECKING

from bacl.errors import UsageError
from bacl_platform.bench import rows
from bacl_platform.bench.measure import IMAGES, Row, Setting, quiet

if TYPE_CHECKING:
    from rich.console import Console


def names() -> list[str]:
    """The benches: the files in `rows/`, by the alphabet. None is imported."""
    return [module.name for module in pkgutil.iter_modules(rows.__path__)]


def summaries() -> dict[str, str]:
    """What each bench measures, by its name: its docstring's first paragraph, read without an
    import, because most benches import torch."""
    found = {}
    for folder in map(Path, rows.__path__):
        for module in pkgutil.iter_modules([str(folder)]):
            source = (folder / f"{module.name}.py").read_text(encoding="utf-8")
            text = ast.get_docstring(ast.parse(source)) or ""
            found[module.name] = " ".join(text.split("\n\n")[0].split())
    return found


def setting_of(
    device: str,
    scale: str | None,
    repeat: int | None,
    threads: int,
    config: str | None = None,
) -> Setting:
    """The setting that a user's words mean; without `scale`, small images where there is no GPU.

    Raises:
        UsageError: an unknown word, or a device that is not there.
    """
    if device not in ("cpu", "cuda"):
        raise UsageError(f"--device: expected cpu or cuda, got {device!r}")
    scale = scale or ("full" if device == "cuda" else "small")
    if scale not in IMAGES:
        raise UsageError(f"--scale: expected {' or '.join(IMAGES)}, got {scale!r}")
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise UsageError("--device cuda: expected a GPU, torch finds none")
    return Setting(device, threads, repeat, IMAGES[scale], config)


def run(name: str, setting: Setting) -> list[Row]:
    """Measure one of `names`."""
    with quiet():
        import torch

        torch.set_num_threads(setting.threads)
        bench = importlib.import_module(f"{rows.__name__}.{name}")
        measured: list[Row] = bench.measure(setting)
        return measured


def print_rows(measured: list[Row], setting: Setting, console: "Console") -> None:
    """Print what was measured, and what is over its limit."""
    from rich.table import Table
    from rich.text import Text

    table = Table(
        *("bench", "ours", "beside", "its", "ratio", "limit", ""),
        title=f"on {setting.device}, {setting.threads} CPU thread(s)",
    )
    for row in measured:
        verdict = Text()
        if row.limit is not None:
            verdict = Text("OVER", "bold red") if row.ratio > row.limit else Text("ok", "green")
        table.add_row(
            f"{row.name}: {row.what}",
            f"{row.ours:.4g} {row.unit}",
            row.peer,
            f"{row.theirs:.4g} {row.unit}",
            f"{row.ratio:.3f}",
            "" if row.limit is None else f"{row.limit:g}",
            verdict,
        )
    console.print(table)
    for row in measured:
        if row.parts:
            parts = Table("ms in", *row.parts, title=f"{row.name}: where the time goes")
            for name in next(iter(row.parts.values())):
                parts.add_row(name, *(f"{taken[name]:.1f}" for taken in row.parts.values()))
            console.print(parts)
