"""Networks of timm's, an optional package, as backbones of four levels."""

from difflib import get_close_matches
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from bacl.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

PREFIX = "timm/"
"""What `detector.backbone` begins with for one of them."""
STRIDES = (4, 8, 16, 32)


def create(name: str) -> "nn.Module":
    """The network with that name, without weights, which gives features at STRIDES.

    Raises:
        UsageError: timm is not installed or has no such network, or it has no such features.
    """
    if find_spec("timm") is None:
        raise UsageError(
            f"detector.backbone {PREFIX}{name}: expected the package timm, which is not installed: "
            "pip install 'bacl[timm]'"
        )
    import timm

    if not timm.is_model(name.split(".")[0]):
        close = get_close_matches(name, timm.list_models(), n=1, cutoff=0.5)
        hint = f"; did you mean {PREFIX}{close[0]}?" if close else ""
        raise UsageError(
            f"detector.backbone: expected a network of timm's, got {PREFIX}{name!s}{hint}"
        )
    try:
        whole: Any = timm.create_model(name, features_only=True)
    except Exception as error:  # networks refuse it in their own ways
        raise UsageError(
            f"detector.backbone {PREFIX}{name}: expected a network that gives features, got "
            f"{type(error).__name__}: {error}"
        ) from error
    strides = list(whole.feature_info.reduction())
    if any(strides.count(stride) != 1 for stride in STRIDES):
        raise UsageError(
            f"detector.backbone {PREFIX}{name}: expected features at strides "
            f"{', '.join(map(str, STRIDES))}, got {', '.join(map(str, strides))}"
        )
    levels = [strides.index(stride) for stride in STRIDES]
    network: nn.Module = timm.create_model(name, features_only=True, out_indices=levels)
    return network


@cache
def config_of(backbone: str) -> tuple[dict[str, Any], tuple[int, ...]]:
    """MMDetection's configuration of a backbone `timm/NAME`, and the channels of its levels.

    Raises:
        UsageError: see `create`.
    """
    import torch

    name = backbone.removeprefix(PREFIX)
    with torch.device("meta"):
        network: Any = create(name)
    return {"type": "TimmBackbone", "name": name}, tuple(network.feature_info.channels())
