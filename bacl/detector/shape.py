"""Facts about a configured box head, found without building it."""

from collections.abc import Mapping
from typing import Any


def layer_names(head: Mapping[str, Any]) -> tuple[str, ...]:
    """The layers that variants may read of a region, `bacl.variants.LAYERS`."""
    fcs = head.get("num_shared_fcs", 2) + head.get("num_cls_fcs", 0)
    return ("pooled", "fc1", "fc2") if fcs == 2 else ("pooled", "fc2")


def width_of(head: Mapping[str, Any]) -> int:
    """D, the width of h."""
    if head.get("num_shared_fcs", 2) or head.get("num_cls_fcs", 0):
        return int(head.get("fc_out_channels", 1024))
    convolutions = head.get("num_shared_convs", 0) or head.get("num_cls_convs", 0)
    channels = head.get("conv_out_channels", 256) if convolutions else head["in_channels"]
    return int(channels * (1 if head.get("with_avg_pool") else cells_of(head)))


def cells_of(head: Mapping[str, Any]) -> int:
    """Cells of a region's pooled features, such as 7 x 7."""
    return int(head.get("roi_feat_size", 7) ** 2)


def regressor_reads_h(head: Mapping[str, Any]) -> bool:
    """Whether the box regressor reads what the classifier reads."""
    branches = ("cls_convs", "cls_fcs", "reg_convs", "reg_fcs")
    return not any(head.get(f"num_{branch}") for branch in branches)


def is_paper_head(head: Mapping[str, Any]) -> bool:
    """Whether it has two shared FCs on pooled features and nothing else."""
    return (
        head.get("num_shared_fcs", 2) == 2
        and not head.get("num_shared_convs")
        and not head.get("with_avg_pool")
        and regressor_reads_h(head)
    )
