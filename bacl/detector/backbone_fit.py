"""Whether weights are a backbone's: their names and shapes beside those of the network itself."""

from collections.abc import Mapping
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import torch

from bacl.backbones import BACKBONES

with redirect_stdout(StringIO()):  # MMDetection prints while it is imported
    import bacl.register  # noqa: F401  # backs the operators before anything asks for them
    from bacl.detector.backbones import flattened

    # isort: split
    from mmdet.registry import MODELS


def backbone_problem(config: Mapping[str, Any], content: Any) -> str | None:
    """Why a backbone cannot start from a file's weights, in words; None where it can.

    config: MMDetection's. content: what the file has, weights or a mapping that has them under
    `state_dict` or `model`. MMEngine would pass over weights of other names or shapes. Parameters
    that the weights lack may be new ones of detection, as long as most are there; layers that the
    backbone lacks are those of a deeper one.
    """
    if isinstance(content, dict):
        content = content.get("state_dict", content.get("model", content))
    state = content if isinstance(content, dict) else {}
    names = {str(name).removeprefix("module."): value for name, value in state.items()}
    type_ = config["type"]
    kind = f"a {type_} backbone"
    if config.get("convert_weights"):  # the weights' own names are turned into MMDetection's
        asked = next((b.parameter for b in BACKBONES.values() if b.config["type"] == type_), "")
        return None if not asked or asked in names else _lacking(kind, asked, names)
    try:
        own = _parameters(config)
    except Exception:  # such as an operator that is not there: told where the detector is built
        return None
    if type_ == "TimmBackbone":
        own = {name.removeprefix("net."): shape for name, shape in own.items()}
        names = {flattened(name, own): value for name, value in names.items()}
    missing = [name for name in own if name not in names]
    if 2 * len(missing) > len(own):
        return _lacking(kind, missing[0], names)
    for name, shape in own.items():
        found = tuple(getattr(names.get(name), "shape", shape))
        if found != shape:
            return (
                f"expected the weights of {kind} whose {name} has shape {shape}, got one of shape "
                f"{found}"
            )
    blocks = {_block(name) for name in names}
    parts = {block[0] for block in blocks}
    if less := [n for n in missing if _block(n)[0] in parts and _block(n) not in blocks]:
        return _lacking(kind, less[0], names)
    parts = {name.partition(".")[0] for name in own}
    known = (*own, *(f"{n.rpartition('.')[0]}.num_batches_tracked" for n in own))
    if more := [n for n in names if n not in known and n.partition(".")[0] in parts]:
        return (
            f"expected the weights of {kind} of {len(own)} parameters, got those of a larger one, "
            f"with {more[0]}"
        )
    return None


def _block(name: str) -> tuple[str, ...]:
    """What a parameter is a part of: `layer3.5` of `layer3.5.conv1.weight`."""
    return tuple(name.split(".")[:2])


def _lacking(kind: str, name: str, names: Mapping[str, Any]) -> str:
    found = f"none such among its {len(names)}" if names else "none"
    return f"expected the weights of {kind} alone, as a state dict that has {name}, found {found}"


def _parameters(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shapes of a backbone's parameters and buffers, by name."""
    with torch.device("meta"):
        backbone = MODELS.build({**config, "init_cfg": None})
    return {
        name: tuple(tensor.shape)
        for name, tensor in backbone.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
