"""The model of a Runner: without wrappers, its losses, its file."""

from pathlib import Path
from typing import Any

import torch
from mmengine.model import is_model_wrapper
from torch import nn


def bare_model(model: Any) -> Any:
    bare: nn.Module = model.module if is_model_wrapper(model) else model
    return bare


def losses_of(outputs: dict[str, Any]) -> tuple[list[str], torch.Tensor]:
    """Names and values (one float tensor) of a step's losses."""
    losses = {name: value for name, value in outputs.items() if "loss" in name}
    return list(losses), torch.stack([torch.as_tensor(v).detach().float() for v in losses.values()])


def save_file(content: dict[str, Any], path: Path) -> None:
    # through a Python file, because torch's own writer hides a full disk behind a RuntimeError
    with path.open("wb") as file:
        torch.save(content, file)
