"""The files that backbones start from, checked before any job starts."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bacl.backbones import BACKBONES
from bacl.config import weights_file
from bacl.errors import RunError, UsageError

if TYPE_CHECKING:
    from bacl_platform.plan.job import Job


def check_weights(jobs: Iterable["Job"]) -> None:
    """Raise UsageError where the backbone of a job is to start from a file that does not fit.

    MMEngine would find out when the job starts, and would pass over weights of other names.
    """
    problems: dict[str, None] = {}
    for file, kind in {found: None for job in jobs if (found := _of(job.config["model"]))}:
        if problem := _problem(Path(file), kind):
            problems[f"detector.weights: {problem}"] = None
    if problems:
        raise UsageError("\n".join(problems))


def _of(model: dict[str, Any]) -> tuple[str, str] | None:
    """The file that a model's backbone starts from and the kind of the backbone."""
    backbone = model["backbone"]
    file = weights_file(backbone.get("init_cfg") or {})
    return (file, backbone["type"]) if file else None


def _problem(file: Path, kind: str) -> str | None:
    from bacl.detector.warmstart import read_tensors

    if not file.exists():
        return f"expected a file of backbone weights, found no {file}"
    try:
        content = read_tensors(file, mapped=True)
    except RunError as error:
        return str(error)
    state = content
    if isinstance(content, dict):
        state = content.get("state_dict", content.get("model", content))
    names = {str(name).removeprefix("module.") for name in state} if isinstance(state, dict) else ()
    parameter = next((b.parameter for b in BACKBONES.values() if b.config["type"] == kind), "")
    if not parameter or parameter in names:
        return None
    found = f"none such among its {len(names)}" if names else "none"
    return (
        f"{file}: expected the weights of a {kind} backbone alone, as a state dict that has "
        f"{parameter}, found {found}"
    )
