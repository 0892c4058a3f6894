"""What `load_detector` gives, detecting in one image, and compiled in 8 at a time, beside
MMDetection's `inference_detector`."""

from pathlib import Path

import numpy as np
import torch

import bacl.register  # noqa: F401  before anything imports mmdet.models
from bacl.config import bank_heads, stage_config, stock_config
from bacl.export import stock_classifier
from bacl.method_settings.paper import Softmax
from bacl.settings import Detector as DetectorSettings
from bacl_platform.bench.measure import Row, Setting, in_turns
from bacl_platform.bench.training import CATEGORIES, R50, RECIPE
from bacl_platform.inference.detector import Detector
from bacl_platform.tools.stand_in import stand_in

BATCH = 8


def measure(
    setting: Setting, detector: DetectorSettings = R50, side: int = 640, images: int = BATCH
) -> list[Row]:
    """Time of an image, `side` pixels wide and three quarters of it high, with random weights."""
    from mmdet.apis import inference_detector

    ours, compiled, theirs = (_built(detector, side, setting.device) for _ in range(3))
    for model in (compiled, theirs):
        model.load_state_dict(ours.state_dict())
    names = [f"category {label}" for label in range(CATEGORIES)]
    loaded, quick = (Detector(m, names, None, setting.device) for m in (ours, compiled))
    quick.optimize()
    draw = np.random.default_rng(0)
    shape = (images, side * 3 // 4, side, 3)
    pictures = list(draw.integers(256, size=shape, dtype=np.uint8))

    repeat = 3 if setting.repeat is None else setting.repeat
    one, many, peer = in_turns(
        [
            lambda: loaded.predict(pictures[0]),
            lambda: quick.predict(pictures),
            lambda: inference_detector(theirs, pictures[0]),
        ],
        repeat,
        1,
        setting.device,
    )
    what, beside = f"an image of {side}x{side * 3 // 4}", "inference_detector"
    return [
        Row("predict", what, one, beside, peer, 1.05),
        Row(
            f"predict_{images}",
            f"{what}, compiled, {images} at a time",
            many / images,
            beside,
            peer,
            0.8,
        ),
    ]


def _built(settings: DetectorSettings, side: int, device: str) -> torch.nn.Module:
    """A detector as a store exports it, with random weights."""
    from mmdet.apis import init_detector
    from mmengine.config import Config

    recipe = RECIPE.model_copy(update={"test_scale": (side, side)})
    variants = {"softmax": Softmax(method="softmax")}
    prepared = stand_in(CATEGORIES)
    config = stage_config(settings, prepared, Path("-"), recipe, variants, [], 0, workers=1)
    head = bank_heads(config)[0]
    classifier = stock_classifier(head["variants"]["softmax"], head["num_classes"])
    made: torch.nn.Module = init_detector(Config(stock_config(config, classifier)), device=device)
    return made
