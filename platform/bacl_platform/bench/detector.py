"""Whole training steps of the classifier stage: a bank beside one variant, ours beside MMDetection.

The detectors are R50-FPN with random weights; the image is noise with boxes in it.
"""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

import bacl.register  # noqa: F401  before anything imports mmdet.models
from bacl.config import stage_config, stock_config
from bacl.export import variant_state
from bacl.settings import BACL, FROZEN_TRUNK, Detector, Recipe, Schedule
from bacl.variants import Softmax
from bacl_platform.bench.measure import IMAGES, Clock, Row, Setting, in_turns
from bacl_platform.bench.memory import peak_memory
from bacl_platform.standin import stand_in

CATEGORIES = 1203  # LVIS v1.0
BOXES = 12
R50 = Detector()
PARTS = (
    "backbone and neck",
    "RPN",
    "RoI features",
    "shared FCs",
    "feature statistics",
    "classifiers and losses",
    "backward",
    "optimizer",
    "the rest",
)


def bank(setting: Setting, detector: Detector = R50) -> list[Row]:
    """Banks of 8 and of 32 BACL variants beside a bank of one: time, its parts, memory."""
    ones, eights, many = (Training(count, setting, detector) for count in (1, 8, 32))
    repeat = 3 if setting.repeat is None else setting.repeat
    one, eight, thirty_two = in_turns(
        [ones.step, eights.step, many.step], repeat, 1, setting.device
    )
    # Whatever the steps' image is: beside a small one, the variants' own state weighs more.
    whole = replace(setting, image=IMAGES["full"])
    memory = [peak_memory(count, whole, detector) for count in (1, 8)]
    image = "x".join(map(str, setting.image))
    parts = {
        f"bank of {training.count}": training.parts(repeat) for training in (ones, eights, many)
    }
    return [
        Row("bank_8", f"8 variants, {image}", eight, "1 variant", one, 1.5, parts=parts),
        Row("bank_32", f"32 variants, {image}", thirty_two, "1 variant", one, None),
        Row(
            "bank_8_memory",
            f"peak, {'x'.join(map(str, whole.image))}",
            memory[1],
            "1 variant",
            memory[0],
            1.2,
            "MiB",
        ),
    ]


def step(setting: Setting, detector: Detector = R50) -> list[Row]:
    """A step with one BACL variant beside MMDetection's own step with the same frozen parts."""
    ours = Training(1, setting, detector)
    theirs = ours.stock()
    repeat = 5 if setting.repeat is None else setting.repeat
    found = in_turns([ours.step, theirs.step], repeat, 1, setting.device)
    what = f"BACL, {'x'.join(map(str, setting.image))}"
    parts = {"ours": ours.parts(repeat), "MMDetection": theirs.parts(repeat)}
    return [Row("step", what, found[0], "MMDetection", found[1], 1.15, parts=parts)]


class Training:
    """A detector in the classifier stage and the batch that it steps on.

    Without `model`, the detector is a bank of `count` BACL variants.
    """

    def __init__(
        self,
        count: int,
        setting: Setting,
        detector: Detector,
        model: nn.Module | None = None,
    ) -> None:
        from mmdet.structures import DetDataSample
        from mmengine.optim import OptimWrapper
        from mmengine.structures import InstanceData

        self.count, self.setting, self.detector = count, setting, detector
        if model is None:
            torch.manual_seed(0)
            model = build(self._config()["model"])
        self.model = model.to(setting.device).train()
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = OptimWrapper(torch.optim.SGD(trained, 1e-4, momentum=0.9))

        height, width = setting.image
        draw = torch.Generator().manual_seed(0)
        corners = torch.rand(BOXES, 2, generator=draw) * 0.6
        sides = 0.1 + torch.rand(BOXES, 2, generator=draw) * 0.3
        size = torch.tensor([width, height, width, height])
        sample = DetDataSample(
            metainfo={
                "img_shape": (height, width),
                "ori_shape": (height, width),
                "scale_factor": (1.0, 1.0),
                "position": 0,
                "img_id": 0,
            },
            gt_instances=InstanceData(
                bboxes=torch.cat([corners, corners + sides], dim=1) * size,
                labels=torch.randint(CATEGORIES, (BOXES,), generator=draw),
            ),
        )
        image = torch.randint(256, (3, height, width), generator=draw, dtype=torch.uint8)
        self._batch = {"inputs": [image], "data_samples": [sample]}

    def step(self) -> None:
        """One optimizer step."""
        self.model.train_step(copy.deepcopy(self._batch), self.optimizer)  # type: ignore[operator]

    def stock(self) -> "Training":
        """MMDetection's own detector on the same weights, with the same parts frozen."""
        config = self._config()
        train_cfg = copy.deepcopy(config["model"]["train_cfg"])
        for part in ("rpn", "rcnn"):
            keyed = train_cfg[part]["sampler"]
            keyed["type"] = "RandomSampler"
            del keyed["stream"], keyed["seed"]
        stock = stock_config(config, {"loss_cls": Softmax.stock_loss})["model"]
        detector = build({**stock, "type": "FasterRCNN", "train_cfg": train_cfg})
        detector.load_state_dict(variant_state(self.model.state_dict(), "bacl0"))
        for name in ("backbone", "neck", "roi_head.bbox_head.shared_fcs"):
            detector.get_submodule(name).requires_grad_(False)
        return Training(1, self.setting, self.detector, detector)

    def parts(self, repeat: int) -> dict[str, float]:
        """Mean milliseconds of each part of a step; on a GPU, watching them slows the step."""
        clock = Clock(self.setting.device)
        model: Any = self.model
        head = model.roi_head.bbox_head
        is_bank = hasattr(head, "variants")
        calls: list[tuple[Any, str, str]] = [
            (model, "extract_feat", "backbone and neck"),
            (model.rpn_head, "loss_and_predict", "RPN"),
            (model.roi_head.bbox_roi_extractor, "forward", "RoI features"),
            *((fc, "forward", "shared FCs") for fc in head.shared_fcs),
            *([(head, "observe", "feature statistics")] if is_bank else []),
            *([] if is_bank else [(head.fc_cls, "forward", "classifiers and losses")]),
            (head, "loss_and_target", "classifiers and losses"),
            (self.optimizer, "backward", "backward"),
            (self.optimizer, "step", "optimizer"),
        ]
        with clock.watching(calls):
            for _ in range(repeat):
                with clock.part("the rest"):
                    self.step()
        return {name: clock.taken.get(name, 0.0) / repeat for name in PARTS}

    def _config(self) -> dict[str, Any]:
        recipe = Recipe(schedule=Schedule(iterations=1))
        variants = {f"bacl{number}": BACL(method="bacl") for number in range(self.count)}
        prepared = stand_in(CATEGORIES)
        return stage_config(
            self.detector, prepared, Path("-"), recipe, variants, list(FROZEN_TRUNK), 0, workers=1
        )


def build(model: dict[str, Any]) -> nn.Module:
    """An initialised detector of a configuration."""
    from mmdet.registry import MODELS
    from mmengine.config import ConfigDict
    from mmengine.registry import DefaultScope

    with DefaultScope.overwrite_default_scope("mmdet"):
        detector: nn.Module = MODELS.build(ConfigDict(model))
        detector.init_weights()  # type: ignore[operator]
    return detector
