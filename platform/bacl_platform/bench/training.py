"""A detector and the batch that it trains on, for benches: ours, or MMDetection's own.

The detectors have random weights, and are R50-FPN if nothing else is said; the images are noise
with boxes in it.
"""

import copy
from pathlib import Path
from typing import Any

import torch
from torch import nn

import bacl.register  # noqa: F401  before anything imports mmdet.models
from bacl.config import stage_config, stock_config
from bacl.detector.layers import layer_modules
from bacl.detector.two_stage import has_masks
from bacl.export import variant_state
from bacl.method_settings.paper import BACL
from bacl.method_settings.paper import Softmax as SoftmaxSettings
from bacl.method_settings.registry import Variant
from bacl.settings import FROZEN_TRUNK, Detector, Recipe, Schedule
from bacl.variants import Softmax
from bacl_platform.bench.measure import Clock, Setting
from bacl_platform.tools.stand_in import stand_in

CATEGORIES = 1203  # LVIS v1.0
BOXES = 12
"""Boxes of an image."""
R50 = Detector()
RECIPE = Recipe(schedule=Schedule(iterations=1, lr=1e-4))
PARTS = (
    "backbone and neck",
    "RPN",
    "RoI features",
    "box head's layers",
    "feature statistics",
    "classifiers and losses",
    "masks",
    "backward",
    "optimizer",
    "the rest",
)


class Training:
    """A detector that trains, its optimizer, and the batch that it steps on.

    Without `model`, the detector is a bank of `count` BACL variants over a frozen trunk; or, with
    `end_to_end`, one softmax classifier with which all of the detector trains, as in stage 1.
    """

    def __init__(
        self,
        count: int,
        setting: Setting,
        detector: Detector,
        model: nn.Module | None = None,
        *,
        recipe: Recipe = RECIPE,
        images: int = 1,
        end_to_end: bool = False,
    ) -> None:
        self.count, self.setting, self.detector = count, setting, detector
        self.recipe, self.images, self.end_to_end = recipe, images, end_to_end
        config = self.config()
        if model is None:
            torch.manual_seed(0)
            model = build(config["model"])
        self.model = model.to(setting.device).train()
        self.optimizer = self.optimizer_of(model)
        self._batch = batch_of(images, setting, masks=has_masks(detector))

    def optimizer_of(self, model: nn.Module) -> Any:
        """An optimizer of what trains in a detector, as the stage has it."""
        from mmengine.registry import OPTIM_WRAPPERS

        config = self.config()["optim_wrapper"]
        options = {name: value for name, value in config["optimizer"].items() if name != "type"}
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        return OPTIM_WRAPPERS.build({**config, "optimizer": torch.optim.SGD(trained, **options)})

    def step(self) -> None:
        """One optimizer step."""
        self.model.train_step(copy.deepcopy(self._batch), self.optimizer)  # type: ignore[operator]

    def stock(self) -> "Training":
        """MMDetection's own detector on the same weights, with the same parts frozen."""
        config = self.config()
        train_cfg = copy.deepcopy(config["model"]["train_cfg"])
        rcnn = train_cfg["rcnn"]
        for part in (train_cfg["rpn"], *(rcnn if isinstance(rcnn, list) else [rcnn])):
            part["sampler"] = unkeyed(part["sampler"])
        stock = stock_config(config, {"loss_cls": Softmax.stock_loss})["model"]
        detector = build({**stock, "train_cfg": train_cfg})
        variant = "softmax" if self.end_to_end else "bacl0"
        detector.load_state_dict(variant_state(self.model.state_dict(), variant))
        ours: Any = self.model
        for name in ours.frozen_parts:
            detector.get_submodule(name).requires_grad_(False)
        return Training(
            1,
            self.setting,
            self.detector,
            detector,
            recipe=self.recipe,
            images=self.images,
            end_to_end=self.end_to_end,
        )

    def parts(self, repeat: int) -> dict[str, float]:
        """Mean milliseconds of each part of a step; on a GPU, watching them slows the step."""
        clock = Clock(self.setting.device)
        model: Any = self.model
        calls: list[tuple[Any, str, str]] = [
            (model, "extract_feat", "backbone and neck"),
            (model.rpn_head, "loss_and_predict", "RPN"),
            *(
                (part, "forward", "RoI features")
                for part in _each(model.roi_head.bbox_roi_extractor)
            ),
            *(call for head in _each(model.roi_head.bbox_head) for call in _calls(head)),
            *(
                (part, "forward", "masks")
                for part in _each(getattr(model.roi_head, "mask_head", []))
            ),
            (self.optimizer, "backward", "backward"),
            (self.optimizer, "step", "optimizer"),
        ]
        with clock.watching(calls):
            for _ in range(repeat):
                with clock.part("the rest"):
                    self.step()
        shown = [part for part in PARTS if part != "masks" or model.roi_head.with_mask]
        return {name: clock.taken.get(name, 0.0) / repeat for name in shown}

    def config(self) -> dict[str, Any]:
        """The stage's configuration."""
        variants: dict[str, Variant] = (
            {"softmax": SoftmaxSettings(method="softmax")}
            if self.end_to_end
            else {f"bacl{number}": BACL(method="bacl") for number in range(self.count)}
        )
        freeze = [] if self.end_to_end else list(FROZEN_TRUNK)
        prepared = stand_in(CATEGORIES)
        return stage_config(
            self.detector, prepared, Path("-"), self.recipe, variants, freeze, 0, workers=1
        )


def _each(part: Any) -> list[Any]:
    """The modules of a part that a cascade has several of."""
    return list(part) if isinstance(part, nn.ModuleList | list) else [part]


def _calls(head: Any) -> list[tuple[Any, str, str]]:
    """What is watched of a box head, and which part of a step it is."""
    is_bank = hasattr(head, "variants")
    return [
        *((layer, "forward", "box head's layers") for layer in layer_modules(head)),
        *([(head, "observe", "feature statistics")] if is_bank else []),
        *([] if is_bank else [(head.fc_cls, "forward", "classifiers and losses")]),
        (head, "loss_and_target", "classifiers and losses"),
    ]


def unkeyed(sampler: dict[str, Any]) -> dict[str, Any]:
    """A sampler as MMDetection's configurations have it, of one whose draws are keyed."""
    if "sampler" in sampler:
        own: dict[str, Any] = sampler["sampler"]
        return own
    plain = {name: value for name, value in sampler.items() if name not in ("stream", "seed")}
    keyed = sampler["type"] == "KeyedRandomSampler"
    return {**plain, "type": "RandomSampler"} if keyed else plain


def batch_of(images: int, setting: Setting, masks: bool = False) -> dict[str, list[Any]]:
    """Images of noise with `BOXES` boxes each, as a training pipeline hands them on."""
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData

    height, width = setting.image
    draw = torch.Generator().manual_seed(0)
    batch: dict[str, list[Any]] = {"inputs": [], "data_samples": []}
    for number in range(images):
        corners = torch.rand(BOXES, 2, generator=draw) * 0.6
        sides = 0.1 + torch.rand(BOXES, 2, generator=draw) * 0.3
        size = torch.tensor([width, height, width, height])
        sample = DetDataSample(
            metainfo={
                "img_shape": (height, width),
                "ori_shape": (height, width),
                "scale_factor": (1.0, 1.0),
                "position": number,
                "img_id": number,
            },
            gt_instances=InstanceData(
                bboxes=torch.cat([corners, corners + sides], dim=1) * size,
                labels=torch.randint(CATEGORIES, (BOXES,), generator=draw),
            ),
        )
        if masks:  # the boxes' own rectangles
            rows, columns = torch.arange(height)[:, None], torch.arange(width)
            bitmaps = [
                (columns >= left) & (columns < right) & (rows >= above) & (rows < below)
                for left, above, right, below in sample.gt_instances.bboxes
            ]
            shapes = torch.stack(bitmaps).to(torch.uint8).numpy()
            sample.gt_instances.masks = BitmapMasks(shapes, height, width)
        image = torch.randint(256, (3, height, width), generator=draw, dtype=torch.uint8)
        batch["inputs"].append(image)
        batch["data_samples"].append(sample)
    return batch


def build(model: dict[str, Any]) -> nn.Module:
    """An initialised detector of a configuration."""
    from mmdet.registry import MODELS
    from mmengine.config import ConfigDict
    from mmengine.registry import DefaultScope

    with DefaultScope.overwrite_default_scope("mmdet"):
        detector: nn.Module = MODELS.build(ConfigDict(model))
        detector.init_weights()  # type: ignore[operator]
    return detector
