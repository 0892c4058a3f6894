"""Detecting in an image by onnxruntime, of an exported file, beside PyTorch with the detector that
the file was made of; from the image's pixels to boxes, on the CPU."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmdet.apis import init_detector
from mmengine.config import Config

from bacl.config import bank_heads, stage_config, stock_config
from bacl.errors import UsageError
from bacl.export import stock_classifier
from bacl.method_settings.paper import Softmax
from bacl.settings import Detector as DetectorSettings
from bacl_platform.bench.measure import Row, Setting, in_turns
from bacl_platform.bench.rows.inference import LIKELY
from bacl_platform.bench.training import CATEGORIES, R50, RECIPE
from bacl_platform.exporting import onnx_file
from bacl_platform.inference.detector import Detector, quiet
from bacl_platform.tools.stand_in import stand_in


def measure(setting: Setting, detector: DetectorSettings = R50, side: int = 640) -> list[Row]:
    """Time of one image, which is shown to the network with a longer side of `side` pixels."""
    if setting.device != "cpu":
        raise UsageError("onnx: expected --device cpu, on which exported files are run here")
    loaded = _loaded(detector, side)
    image = np.random.default_rng(0).integers(256, size=(480, 640, 3), dtype=np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "detector.onnx"
        onnx_file.write(path, loaded.model, image, {}, None)
        exported = onnx_file.OnnxDetector(path, setting.threads)
        repeat = 5 if setting.repeat is None else setting.repeat
        steps = [lambda: exported(image), lambda: loaded.predict(image)]
        ours, theirs = in_turns(steps, repeat, 1, setting.device)
    return [Row("onnx", f"R50-FPN, image of {side}", ours, "PyTorch", theirs, limit=1.0)]


def _loaded(detector: DetectorSettings, side: int) -> Detector:
    """A detector with random weights and a softmax classifier that gives a region to `LIKELY`
    categories."""
    recipe = RECIPE.model_copy(update={"test_scale": (side, side)})
    variants = {"softmax": Softmax(method="softmax")}
    prepared = stand_in(CATEGORIES)
    config = stage_config(detector, prepared, Path("-"), recipe, variants, [], 0, workers=1)
    (head,) = bank_heads(config)
    stock = stock_config(config, stock_classifier(head["variants"]["softmax"], CATEGORIES))
    torch.manual_seed(0)
    with quiet():  # that it has no checkpoint
        model: Any = init_detector(Config(stock), None, device="cpu")
        model.init_weights()
    with torch.no_grad():
        model.roi_head.bbox_head.fc_cls.bias[LIKELY:-1] = -20
    names = [category.name for category in prepared.categories]
    return Detector(model.requires_grad_(False), names, None, "cpu")
