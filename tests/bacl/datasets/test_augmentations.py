"""MMDetection's transforms in recipes: those that keep boxes and masks true, and their draws."""

import inspect
import random
import warnings

import numpy as np
import pytest
import torch
from mmdet.registry import DATASETS, TRANSFORMS
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks
from mmengine.registry import DefaultScope
from training import build, config_of, config_of_features, train

from bacl.augmentation_settings import COLOURS, PLACES, Augmentation
from bacl.datasets.samplers import Position
from bacl.errors import UsageError
from bacl.method_settings.paper import Softmax
from bacl.settings import Features

VARIANTS = {"softmax": Softmax(method="softmax")}
HEIGHT, WIDTH = 120, 160
COLOURED = np.array([(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)])
NEEDED = {
    "RandomCrop": {"crop_size": (80, 100)},
    "CutOut": {"n_holes": 3, "cutout_shape": (20, 20)},
    "RandomErasing": {"n_patches": 3, "ratio": 0.3},
    **{name: {"prob": 1.0, "level": 8} for name in ("Rotate", "ShearX", "ShearY")},
    **{name: {"prob": 1.0} for name in ("TranslateX", "TranslateY", "RandomShift")},
}
"""Options that a transform lacks a default of, or with which it always does something."""
OWN = ("Resize", "RandomFlip", "Pad", "FilterAnnotations", "SegRescale", "ColorTransform")
"""Transforms that are the recipe's, or do nothing to a box's image by themselves."""


def drawn(seed):
    """A sample of four rectangles on grey, each of its colour, with their boxes and masks."""
    generator = np.random.default_rng(seed)
    image = np.full((HEIGHT, WIDTH, 3), 30, np.uint8)
    boxes, masks = [], np.zeros((4, HEIGHT, WIDTH), np.uint8)
    for label, (x, y) in enumerate([(40, 30), (120, 30), (40, 90), (120, 90)]):
        width, height = generator.integers(20, 60, 2)
        left, top = x - width // 2, y - height // 2
        right, bottom = left + width, top + height
        image[top:bottom, left:right] = COLOURED[label]
        masks[label, top:bottom, left:right] = 1
        boxes.append([left, top, right, bottom])
    return {
        "img": image,
        "img_shape": (HEIGHT, WIDTH),
        "gt_bboxes": HorizontalBoxes(np.array(boxes, np.float32)),
        "gt_bboxes_labels": np.arange(4),
        "gt_ignore_flags": np.zeros(4, bool),
        "gt_masks": BitmapMasks(masks, HEIGHT, WIDTH),
    }


def bounds(mask):
    rows, columns = np.nonzero(mask)
    if not len(rows):
        return np.full(4, np.nan)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


def true_after(name):
    """Whether a transform, which changes images at all, keeps boxes and masks true."""
    with DefaultScope.overwrite_default_scope("mmdet"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            transform = TRANSFORMS.build({"type": name, **NEEDED.get(name, {})})
        except Exception:
            return False  # it needs more than an image and its boxes
        return _true_after(transform)


def _true_after(transform):
    changed = False
    for seed in range(60):
        np.random.seed(seed)
        random.seed(seed)
        sample = drawn(seed)
        image, boxes = sample["img"].copy(), sample["gt_bboxes"].tensor.clone()
        try:
            found = transform(sample)
        except Exception:
            return False
        if found is None:  # all boxes are gone, and the dataset takes another image
            continue
        if not isinstance(found, dict) or not {"img", "gt_masks", "gt_bboxes"} <= found.keys():
            return False
        if not isinstance(found["gt_bboxes"], HorizontalBoxes):
            return False
        same = found["img"].shape == image.shape and (found["img"] == image).all()
        changed = changed or not same
        after, masks = found["gt_bboxes"].tensor.numpy(), found["gt_masks"].masks
        moved = len(after) != 4 or not (after == boxes.numpy()).all()
        if found["img_shape"] != found["img"].shape[:2] or len(masks) != len(after):
            return False
        for box, label, mask in zip(after, found["gt_bboxes_labels"], masks, strict=True):
            seen = [bounds(mask)] if mask.shape == found["img_shape"] else [np.full(4, np.nan)]
            if moved:
                away = np.abs(found["img"].astype(int) - COLOURED[label]).sum(-1)
                seen.append(bounds(away < 120))
            if not all(np.abs(one - box).max() <= 2 for one in seen):
                return False
    return changed


def test_known_transforms_are_those_that_keep_boxes_and_masks_true():
    registered = {
        name: kind
        for name, kind in TRANSFORMS.module_dict.items()
        if kind.__module__.startswith("mmdet.datasets.transforms.")
    }
    # without levels of their own, magnitudes are drawn; contrast of one colour has nothing to do
    names = set(registered) - set(OWN) - {"AutoContrast"}
    assert {name for name in names if true_after(name)} == (COLOURS | PLACES).keys() - {
        "AutoContrast"
    }


@pytest.mark.parametrize("name", COLOURS | PLACES)
def test_known_options_are_the_transform_s(name):
    known = (COLOURS | PLACES)[name]
    assert set(known) <= set(inspect.signature(TRANSFORMS.get(name)).parameters)


STEPS = [
    Augmentation(type="PhotoMetricDistortion"),
    Augmentation(type="Posterize", prob=0.5),
    Augmentation(type="MinIoURandomCrop", min_crop_size=0.4),
    Augmentation(type="TranslateX", prob=1.0, max_mag=0.9),
]


@pytest.mark.parametrize("augmentation", ["multi_scale", "copy_paste"])
def test_sample_depends_on_the_position_alone(dataset_info, augmentation):
    recipe = {"augmentations": STEPS, "augmentation": augmentation, "copy_paste_size": 96}
    config = config_of(dataset_info, VARIANTS, **recipe)["train_dataloader"]["dataset"]
    one, two = DATASETS.build(config), DATASETS.build(config)
    plain = DATASETS.build(config_of(dataset_info, VARIANTS)["train_dataloader"]["dataset"])
    changed = 0
    for place in range(8):
        torch.manual_seed(place)  # other global draws must not matter
        np.random.seed(place)
        first = one[Position(place + 40, place)]
        random.seed(place)
        second = two[Position(place + 40, place)]
        assert torch.equal(first["inputs"], second["inputs"])
        assert first["inputs"].dtype == torch.uint8
        boxes = first["data_samples"].gt_instances.bboxes.tensor
        assert torch.equal(boxes, second["data_samples"].gt_instances.bboxes.tensor)
        assert len(boxes) and (boxes[:, 2:] > boxes[:, :2]).all()
        other = plain[Position(place + 40, place)]["inputs"]
        changed += other.shape != first["inputs"].shape or not torch.equal(other, first["inputs"])
    assert changed == 8


def test_recipe_with_augmentations_trains(dataset_info):
    config = config_of(dataset_info, VARIANTS, freeze=(), augmentations=STEPS)
    model = build(config)
    before = model.state_dict()["backbone.conv1.weight"].clone()
    train(config, model, 1)
    assert not torch.equal(before, model.state_dict()["backbone.conv1.weight"])


def test_stored_features_are_of_augmented_images(dataset_info):
    config = config_of_features(dataset_info, Features(), augmentations=STEPS)
    steps = [step["type"] for step in config["train_dataloader"]["dataset"]["pipeline"]]
    assert steps[2:6] == ["PhotoMetricDistortion", "RoundImage", "Posterize", "MinIoURandomCrop"]
    tested = config["val_dataloader"]["dataset"]["pipeline"]
    assert "Posterize" not in [step["type"] for step in tested]


def test_value_that_a_transform_refuses_is_told(dataset_info):
    wrong = Augmentation(type="RandomCrop", crop_size=[10, 10], crop_type="round")
    with pytest.raises(
        UsageError,
        match=r"recipe\.augmentations\.0: expected options that MMDetection's RandomCrop takes, it "
        r"refuses them with ValueError: Invalid crop_type round",
    ):
        config_of(dataset_info, VARIANTS, augmentations=[wrong])
