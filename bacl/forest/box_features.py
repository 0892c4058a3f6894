"""Features h of ground-truth boxes, as a trained detector's classifier receives them, by category.

C categories, D feature width.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmdet.registry import DATASETS, MODELS
from mmdet.structures.bbox import bbox2roi
from mmengine.config import ConfigDict
from mmengine.dataset import pseudo_collate
from mmengine.registry import init_default_scope
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import DataLoader, Subset

from bacl.datasets.index import Index
from bacl.detector.bank import BankBBoxHead
from bacl.detector.layers import layers
from bacl.detector.warmstart import read_checkpoint
from bacl.errors import RunError

Chosen = Mapping[int, list[int]]
"""Chosen boxes: position of the image in the index -> positions of boxes in the image."""


def choose(index: Index, most: int, seed: int) -> Chosen:
    """At most `most` boxes of each category, drawn by (seed, label); crowds are left out."""
    of_label: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for place in range(len(index)):
        entry = index.image(place)
        for number in np.flatnonzero(~entry.crowd).tolist():
            of_label[int(entry.labels[number])].append((place, number))
    chosen: dict[int, list[int]] = defaultdict(list)
    for label, boxes in sorted(of_label.items()):
        order = np.random.default_rng([seed, label]).permutation(len(boxes))[:most]
        for number in sorted(order.tolist()):
            place, box = boxes[number]
            chosen[place].append(box)
    return dict(sorted(chosen.items()))


@torch.no_grad()
def mean_features(
    config: Mapping[str, Any],
    checkpoint: Path,
    chosen: Chosen,
    device: str,
    watched: Callable[[Iterable[Any], int], Iterable[Any]],
) -> NDArray[Any]:
    """The mean h of the chosen training boxes of each category (C, D); NaN where none is chosen.

    config, checkpoint: those of a finished stage. Images go through the pipeline of evaluation; in
    a cascade the first stage's box head gives h. watched: wraps an iteration over images, whose
    number is its second argument, to show progress. Raises RunError for a checkpoint that does not
    fit, ImageError for an image that cannot be read.
    """
    init_default_scope("mmdet")
    detector = MODELS.build(ConfigDict(config["model"]))
    try:
        detector.load_state_dict(read_checkpoint(checkpoint)["state_dict"])
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise RunError(
            f"{checkpoint}: expected the weights of the stage's detector, got others: {reason}"
        ) from None
    detector = detector.to(device).eval()
    extractor = _first(detector.roi_head.bbox_roi_extractor)
    head: BankBBoxHead = _first(detector.roi_head.bbox_head)
    dataset = DATASETS.build(_as_at_test(config))
    loader = DataLoader(
        Subset(dataset, list(chosen)),
        num_workers=config["val_dataloader"]["num_workers"],
        collate_fn=pseudo_collate,
    )
    sums = np.zeros((head.num_classes, head.cls_last_dim))
    counts = np.zeros(head.num_classes, dtype=int)
    for batch, place in zip(watched(loader, len(chosen)), chosen):
        entry = dataset.index.image(place)
        batch = detector.data_preprocessor(batch)
        scale = np.tile(batch["data_samples"][0].scale_factor, 2)
        corners = entry.boxes[chosen[place]]
        corners[:, 2:] += corners[:, :2]
        boxes = torch.as_tensor(corners * scale, dtype=torch.float32, device=device)
        levels = detector.extract_feat(batch["inputs"])
        pooled = detector.roi_head.pooled(extractor, levels, bbox2roi([boxes]))
        features = layers(head, pooled)["fc2"]
        labels = entry.labels[chosen[place]]
        np.add.at(sums, labels, features.cpu().double().numpy())
        np.add.at(counts, labels, 1)
    with np.errstate(invalid="ignore"):
        means: NDArray[Any] = sums / counts[:, None]
    return means


def _first(part: nn.Module) -> Any:
    """The module of a cascade's first stage, or the module itself without a cascade."""
    return part[0] if isinstance(part, nn.ModuleList) else part


def _as_at_test(config: Mapping[str, Any]) -> dict[str, Any]:
    """Configuration of a dataset with the training images and the pipeline of evaluation."""
    train = config["train_dataloader"]["dataset"]
    train = train.get("dataset", train)  # with Copy-Paste, the dataset is wrapped
    files = {name: train[name] for name in ("ann_file", "images")}
    return {**config["val_dataloader"]["dataset"], **files}
