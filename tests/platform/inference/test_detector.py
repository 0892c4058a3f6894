"""The detector of an export: its detections are MMDetection's, alone and in batches."""

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco

import bacl.register  # noqa: F401

# isort: split
from mmdet.apis import inference_detector

from bacl.datasets.decoding import read
from bacl.errors import RunError, UsageError
from bacl_platform.inference.detector import Detector


@pytest.fixture
def photographs(tmp_path):
    """Pictures of several sizes, many of them of one."""
    draw = np.random.default_rng(0)
    sizes = [(96, 64), (64, 96), (96, 64), (96, 96), (96, 64), (50, 90), (96, 64), (90, 64)]
    paths = []
    for number, (width, height) in enumerate(sizes):
        small = draw.integers(0, 255, (8, 8, 3), dtype=np.uint8)
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(small).resize((width, height)).save(paths[-1])
    return paths


def by_mmdetection(detector, path):
    found = inference_detector(detector.model, read(path)).pred_instances
    return found.bboxes.numpy(), found.scores.numpy(), found.labels.numpy()


def same(one, boxes, scores, labels):
    """Whether detections are the same, equal scores in any order."""
    np.testing.assert_allclose(one.scores, scores, atol=1e-5)
    order = np.lexsort((one.boxes[:, 0], one.labels))
    theirs = np.lexsort((boxes[:, 0], labels))
    assert (one.labels[order] == labels[theirs]).all()
    np.testing.assert_allclose(one.boxes[order], boxes[theirs], atol=1e-2)


@pytest.mark.parametrize("batch", [1, 2, 3, 8])
def test_detections_are_mmdetections_whatever_the_batch(exported_variant, photographs, batch):
    detector = Detector.load(exported_variant, device="cpu")
    found = detector.predict(photographs, batch=batch)
    assert len(found) == len(photographs)
    for one, path in zip(found, photographs, strict=True):
        assert one.size == Image.open(path).size and len(one) > 0
        same(one, *by_mmdetection(detector, path))


def test_image_of_a_lone_size_does_not_hold_back_the_others(exported_variant, photographs):
    """Of images that come one after the other, as many are in memory as two batches have."""
    detector = Detector.load(exported_variant, device="cpu")
    taken = []

    def coming():
        for path in [photographs[1], *[photographs[0]] * 40]:
            taken.append(path)
            yield read(path)

    ahead = [len(taken) - number for number, _ in enumerate(detector.detect(coming(), 2))]
    assert len(ahead) == 41 and max(ahead) <= 8


def test_paths_arrays_and_pictures_give_the_same(exported_variant, photographs):
    detector = Detector.load(exported_variant, device="cpu")
    path = photographs[0]
    pixels = np.asarray(Image.open(path).convert("RGB"))
    ways = [str(path), path, pixels, Image.open(path)]
    first, *others = detector.predict(ways, batch=1)
    for other in [*others, *(detector.predict(way) for way in ways)]:
        assert other.as_json() == first.as_json()


def test_threshold_leaves_out_lower_scores(exported_variant, photographs):
    detector = Detector.load(exported_variant, device="cpu")
    everything = detector.predict(photographs[0])
    middle = float(np.sort(everything.scores)[len(everything) // 2])
    kept = detector.predict(photographs[0], score_threshold=middle)
    assert kept.as_json() == [one for one in everything.as_json() if one["score"] >= middle]
    assert 0 < len(kept) < len(everything)


def test_masks_come_as_rle_of_the_whole_image(planned, publish_untrained, photographs):
    job = planned("detector.type=mask_rcnn").jobs[1]
    detector = Detector.load(publish_untrained(job) / "variants/softmax", device="cpu")
    found = detector.predict(photographs[1])
    instances = inference_detector(detector.model, read(photographs[1])).pred_instances
    assert len(found) == len(instances) > 0
    for one, pixels in zip(found, instances.masks.numpy(), strict=True):
        assert np.array_equal(coco.decode(one.mask), pixels)


def test_variant_without_a_column_for_background_is_loaded(planned, publish_untrained):
    plain = "stages.heads.variants={plain: {method: sigmoid}}"
    job = planned(plain, "baseline=null", "detector.score_threshold=0.0001").jobs[1]
    detector = Detector.load(publish_untrained(job) / "variants/plain", device="cpu")
    weights = detector.model.roi_head.bbox_head.fc_cls.weight
    assert len(weights) == len(detector.categories)
    assert len(detector.predict(np.zeros((64, 64, 3), dtype=np.uint8))) > 0


def test_folder_without_a_checkpoint_is_told(tmp_path):
    with pytest.raises(UsageError, match=r"expected a folder with checkpoint.pth and config.py"):
        Detector.load(tmp_path)


def test_loaded_detector_comes_with_names_and_ids(exported_variant, odd_categories):
    detector = Detector.load(exported_variant, device="cpu")
    assert list(detector.categories) == [category.name for category in odd_categories]
    assert list(detector.category_ids) == [category.id for category in odd_categories]


def test_names_are_found_where_earlier_versions_of_mmdetection_have_them(
    exported_variant, tmp_path
):
    content = torch.load(exported_variant / "checkpoint.pth", weights_only=True)
    names = content["meta"]["dataset_meta"]["classes"]
    for meta in ({"dataset_meta": {"CLASSES": names}}, {"CLASSES": names}):
        torch.save({**content, "meta": meta}, tmp_path / "old.pth")
        detector = Detector.load(tmp_path / "old.pth", exported_variant / "config.py", "cpu")
        assert (detector.categories, detector.category_ids) == (names, None)


def test_checkpoint_of_other_categories_is_refused(exported_variant, tmp_path):
    path = exported_variant / "checkpoint.pth"
    content = torch.load(path, weights_only=True)
    head = "roi_head.bbox_head.fc_cls."
    for name in ("weight", "bias"):
        content["state_dict"][head + name] = content["state_dict"][head + name][:4]
    other = tmp_path / "other.pth"
    torch.save(content, other)
    with pytest.raises(RunError, match=r"other.pth: .* with 6 categories, got those of one with 3"):
        Detector.load(other, exported_variant / "config.py", "cpu")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda c: c["state_dict"].pop("backbone.conv1.weight"), "got none named backbone.conv1"),
        (lambda c: c["state_dict"].update(new=torch.ones(1)), "got others, such as new"),
        (
            lambda c: c["state_dict"].update({"rpn_head.rpn_cls.bias": torch.ones(5)}),
            r"rpn_head.rpn_cls.bias of shape \(3,\), got \(5,\)",
        ),
        (lambda c: c.pop("meta"), "expected a name for each category .* got 0"),
    ],
)
def test_checkpoint_that_does_not_fit_is_refused(exported_variant, tmp_path, change, reason):
    content = torch.load(exported_variant / "checkpoint.pth", weights_only=True)
    change(content)
    other = tmp_path / "other.pth"
    torch.save(content, other)
    with pytest.raises(RunError, match=reason):
        Detector.load(other, exported_variant / "config.py", "cpu")


def test_configuration_that_is_missing_or_broken_is_told(exported_variant, tmp_path):
    with pytest.raises(UsageError, match=r"config.py: .* no such file"):
        Detector.load(exported_variant / "checkpoint.pth", tmp_path / "config.py", "cpu")
    (tmp_path / "config.py").write_text("model = dict(type='NoSuchDetector', backbone=dict())\n")
    with pytest.raises(UsageError, match=r"config.py: expected the configuration of a detector"):
        Detector.load(exported_variant / "checkpoint.pth", tmp_path / "config.py", "cpu")
