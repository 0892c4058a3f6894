"""`bacl complexity`: multiply-adds and parameters of an experiment's detector at test, by part.

The detector is the plain one that a variant is exported as. It is run on the meta device, on which
tensors have shapes and no content, so nothing is computed.
"""

import contextlib
import io
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bacl.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console
    from torch import Tensor, nn

    from bacl.datasets.prepared import Prepared
    from bacl_platform.spec.experiment import Experiment

TABLE_11 = {50: (221.71, 47.42), 101: (301.58, 66.41)}
"""The paper's GFLOPs and millions of parameters of Faster R-CNN by the depth of its ResNet."""
TABLE_11_CATEGORIES = 1230  # LVIS v0.5
TABLE_11_IMAGE = (800, 1333)


@dataclass(frozen=True)
class Part:
    """A part of the detector and what one image costs there.

    `multiply_adds` has those of convolutions and matrix products. `mmcv_flops` is what mmcv's
    counter gives: it counts a multiply-add as one, and biases, normalisation, ReLU and pooling as
    well, but only in modules whose types it knows.
    """

    name: str
    multiply_adds: int
    mmcv_flops: int
    parameters: int
    frozen: int
    """How many of the parameters no stage trains."""


def config_of(
    experiment: "Experiment", prepared: "Prepared", variant: str | None = None
) -> dict[str, Any]:
    """The configuration of a detector with one variant; without a name, the last stage's first.

    Raises UsageError for a variant that the experiment lacks.
    """
    from bacl.config import stage_config
    from bacl_platform.spec.experiment import image_recipe, trained, variants_of

    training = trained(experiment)
    stages = {
        name: (image_recipe(experiment, stage_name), settings)
        for stage_name, stage in training.items()
        for name, settings in variants_of(stage_name, stage).items()
    }
    if variant is None:
        variant = next(iter(variants_of(*list(training.items())[-1])))
    if variant not in stages:
        raise UsageError(f"--variant: expected one of {', '.join(stages)}, got {variant}")
    recipe, settings = stages[variant]
    return stage_config(
        experiment.detector,
        prepared,
        Path("-"),
        recipe,
        {variant: settings},
        [],
        0,
        workers=1,
    )


def measure(config: Mapping[str, Any], image: tuple[int, int]) -> list[Part]:
    """The parts of the detector of a stage's configuration, in the order in which they run.

    image: (height, width) in pixels, as the detector gets it. At test, every proposal that the RPN
    may keep passes the box head, and every detection that may be kept passes the mask head.
    """
    detector = _build(config)
    return [_count(name, modules, run) for name, modules, run in _passes(detector, image)]


def padded(image: tuple[int, int], divisor: int) -> tuple[int, int]:
    """(height, width) as the detector gets an image of that size: sides padded to multiples."""
    height, width = (-(-side // divisor) * divisor for side in image)
    return height, width


def print_complexity(
    config: Mapping[str, Any], image: tuple[int, int] | None, console: "Console"
) -> None:
    """Print the parts for an image of (height, width) pixels, and how they compare with Table XI.

    Without `image`, it is a landscape image at the test scale of the configuration.
    """
    from rich.table import Table

    from bacl.config import bank_heads

    if image is None:
        scale = next(step for step in _test_pipeline(config) if step["type"] == "Resize")["scale"]
        image = (min(scale), max(scale))
    model = config["model"]
    (height, width) = whole = padded(image, model["data_preprocessor"]["pad_size_divisor"])
    categories = bank_heads(config)[0]["num_classes"]
    found = measure(config, whole)

    table = Table("part", title=f"one image of {height} x {width} pixels, {categories} categories")
    for heading in ("multiply-adds (G)", "parameters (M)", "of them frozen"):
        table.add_column(heading, justify="right")
    for part in found:
        table.add_row(*_cells(part.name, part.multiply_adds, part.parameters, part.frozen))
    table.add_section()
    total = sum(part.parameters for part in found)
    frozen = sum(part.frozen for part in found)
    table.add_row(*_cells("all", sum(part.multiply_adds for part in found), total, frozen))
    console.print(table)
    rcnn = model["test_cfg"]["rcnn"]
    console.print(
        f"The box head sees {model['test_cfg']['rpn']['max_per_img']} proposals"
        + (
            f", the mask head {rcnn['max_per_img']} detections"
            if "mask_head" in model["roi_head"]
            else ""
        )
        + ". One multiply-add is two FLOPs, and one in most papers' tables. Not counted: RoIAlign, "
        "suppression and everything elementwise.",
        highlight=False,
    )
    if model["backbone"]["type"] == "ResNet":
        for line in comparison(config, image):
            console.print(line, highlight=False)


def comparison(config: Mapping[str, Any], image: tuple[int, int]) -> list[str]:
    """How the detector's cost reads when counted as for Table XI, step by step.

    That count reproduces the table's digits, which is how its rules are known.
    """
    from bacl.config import bank_heads
    from bacl.detector.shape import width_of

    parts = measure(config, image)
    height, width = image
    products = sum(part.multiply_adds for part in parts) / 1e9
    flops = sum(part.mmcv_flops for part in parts) / 1e9
    parameters = sum(part.parameters for part in parts) / 1e6
    frozen = sum(part.frozen for part in parts) / 1e6
    lines = [
        "Counted as Table XI does (mmcv's counter):",
        f"  {products:.2f} G multiply-adds on the unpadded {height} x {width} image",
        f"  {flops - products:+.2f} G for biases, normalisation, ReLU and pooling: {flops:.2f} G",
        f"  {parameters:.2f} M parameters {-frozen:+.2f} M frozen in the backbone: "
        f"{parameters - frozen:.2f} M",
    ]
    model = config["model"]
    depth, heads, neck = model["backbone"].get("depth"), bank_heads(config), model.get("neck")
    widths = (isinstance(neck, dict) and neck["out_channels"], width_of(heads[0]))
    as_there = {
        "another depth": depth in TABLE_11,
        f"not {TABLE_11_CATEGORIES} categories": heads[0]["num_classes"] == TABLE_11_CATEGORIES,
        "not Faster R-CNN": len(heads) == 1 and "mask_head" not in model["roi_head"],
        "other widths of neck or RoI features": widths == (256, 1024),
        "another number of proposals": model["test_cfg"]["rpn"]["max_per_img"] == 1000,
        "another image size": image == TABLE_11_IMAGE,
    }
    differences = [what for what, same in as_there.items() if not same]
    if differences:
        return [*lines, f"Table XI has no such detector: {', '.join(differences)}."]
    paper_flops, paper_parameters = TABLE_11[depth]
    flops_off = round(flops, 2) - paper_flops
    parameters_off = round(parameters - frozen, 2) - paper_parameters
    return [
        *lines,
        f"Table XI: {paper_flops} G and {paper_parameters} M; difference "
        f"{flops_off:.2f} G and {parameters_off:.2f} M.",
    ]


def _cells(name: str, multiply_adds: int, parameters: int, frozen: int) -> tuple[str, ...]:
    return name, f"{multiply_adds / 1e9:.2f}", f"{parameters / 1e6:.2f}", f"{frozen / 1e6:.2f}"


def _test_pipeline(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    several = config["val_dataloader"]["dataset"].get("pipeline")
    pipeline: list[dict[str, Any]] = config.get("test_pipeline") or several
    return pipeline


def _build(config: Mapping[str, Any]) -> "nn.Module":
    """The plain detector of a configuration's first variant, on the meta device."""
    with contextlib.redirect_stdout(io.StringIO()):  # mmdet prints while it is imported
        import bacl.register  # noqa: F401
    from mmdet.registry import MODELS
    from mmengine.config import Config
    from mmengine.registry import DefaultScope

    from bacl.config import bank_heads, stock_config
    from bacl.export import stock_classifier

    head = bank_heads(config)[0]
    settings = next(iter(head["variants"].values()))
    stock = stock_config(config, stock_classifier(settings, head["num_classes"]))
    with DefaultScope.overwrite_default_scope("mmdet"):
        detector: nn.Module = MODELS.build(Config(stock).model)
    return detector.to("meta").eval()


def _times(head: Any) -> int:
    """How often RoIs pass a box head."""
    variant = getattr(head.fc_cls, "variant", None)
    return variant.passes if variant else 1


def _passes(
    detector: Any, image: tuple[int, int]
) -> Iterable[tuple[str, list["nn.Module"], Callable[[], object]]]:
    """(name, modules, a function that runs them) of each part."""
    import torch

    from bacl.detector.layers import layer_modules, layers, read

    def empty(*shape: int) -> "Tensor":
        return torch.empty(shape, device="meta")

    roi_head = detector.roi_head
    cascade = isinstance(roi_head.bbox_head, torch.nn.ModuleList)
    heads = list(roi_head.bbox_head) if cascade else [roi_head.bbox_head]
    stages: tuple[Tensor, ...] = detector.backbone(empty(1, 3, *image))
    pyramid: tuple[Tensor, ...] = detector.neck(stages) if detector.with_neck else stages
    proposals, channels = detector.test_cfg.rpn.max_per_img, pyramid[0].size(1)
    size = heads[0].roi_feat_size
    sampled = [2 * side for side in size] if roi_head.with_shared_head else size  # it halves them
    regions = empty(proposals, channels, *sampled)
    pooled = empty(proposals, heads[0].in_channels, *size)
    features = empty(proposals, heads[0].cls_last_dim)
    regressed = empty(proposals, heads[0].reg_last_dim)

    def shared(head: Any) -> None:
        for _ in range(_times(head)):
            layers(head, pooled)

    def classify(head: Any) -> None:
        variant = getattr(head.fc_cls, "variant", None)
        if variant is None:
            head.fc_cls(features)
            return
        shown = read({"pooled": pooled.flatten(1), "fc1": features, "fc2": features}, variant.reads)
        variant.logits(shown.repeat(1, variant.passes))
        for _ in range(variant.passes - 1):
            variant.refine(pooled, shown, empty(proposals, head.fc_reg.out_features))

    def regress(head: Any) -> None:
        for _ in range(_times(head)):
            head.fc_reg(regressed)

    yield "backbone", [detector.backbone], lambda: detector.backbone(empty(1, 3, *image))
    if detector.with_neck:
        yield "neck", [detector.neck], lambda: detector.neck(stages)
    yield "RPN", [detector.rpn_head], lambda: detector.rpn_head(pyramid)
    if roi_head.with_shared_head:
        yield "shared head", [roi_head.shared_head], lambda: roi_head.shared_head(regions)
    for number, head in enumerate(heads, 1):
        name = f"box head {number}" if cascade else "box head"
        parts = layer_modules(head)
        layers_name = "shared FCs" if parts == list(head.shared_fcs) else "layers"
        yield f"{name}: {layers_name}", [*parts, head.relu], partial(shared, head)
        yield f"{name}: classifier", [head.fc_cls], partial(classify, head)
        yield f"{name}: regressor", [head.fc_reg], partial(regress, head)
    if roi_head.with_mask:
        yield from _of_masks(detector, empty, channels)


def _of_masks(
    detector: Any, empty: Callable[..., "Tensor"], channels: int
) -> Iterable[tuple[str, list["nn.Module"], Callable[[], object]]]:
    """What `_passes` gives of the mask heads."""
    import torch

    roi_head = detector.roi_head
    several = isinstance(roi_head.mask_head, torch.nn.ModuleList)
    heads = list(roi_head.mask_head) if several else [roi_head.mask_head]
    extractor = roi_head.mask_roi_extractor
    side = (extractor[0] if several else extractor).roi_layers[0].output_size[0]
    regions = empty(detector.test_cfg.rcnn.max_per_img, channels, side, side)
    if roi_head.with_shared_head:
        regions = roi_head.shared_head(regions)
    for number, head in enumerate(heads, 1):
        name = f"mask head {number}" if several else "mask head"
        yield name, [head], partial(head, regions)


def _count(name: str, modules: list["nn.Module"], run: Callable[[], object]) -> Part:
    import torch
    from mmcv.cnn.utils.flops_counter import add_flops_counting_methods
    from torch.utils.flop_counter import FlopCounterMode

    part = torch.nn.ModuleList(modules)
    counted = add_flops_counting_methods(part)
    counted.start_flops_count()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run()
    mmcv_flops = sum(getattr(module, "__flops__", 0) for module in part.modules())
    counted.stop_flops_count()
    parameters = list(part.parameters())
    return Part(
        name,
        counter.get_total_flops() // 2,
        mmcv_flops,
        sum(parameter.numel() for parameter in parameters),
        sum(parameter.numel() for parameter in parameters if not parameter.requires_grad),
    )
