import json
import pickle
import random

import cv2
import numpy as np
import pytest
import torch
from mmdet.registry import DATASETS
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from PIL import Image

from bacl.datasets import index, samplers
from bacl.datasets.categories import Category
from bacl.datasets.detection import LVISFormatDataset
from bacl.datasets.prepared import Prepared, Split
from bacl.datasets.samplers import OrderedSampler, Position
from bacl.errors import RunError, UsageError

META = ("img_id", "img_shape", "scale_factor", "flip", "position")
PIPELINE = [
    {"type": "LoadImageFromFile"},
    {"type": "LoadAnnotations", "with_bbox": True},
    {
        "type": "RandomChoiceResize",
        "scales": [(40, 32), (60, 48), (80, 64), (100, 80)],
        "keep_ratio": True,
    },
    {"type": "RandomFlip", "prob": 0.5},
    {"type": "PackDetInputs", "meta_keys": META},
]
MASKS = [
    {"type": "LoadImageFromFile"},
    {"type": "LoadAnnotations", "with_bbox": True, "with_mask": True},
    {"type": "PackDetInputs"},
]
POLYGON = [[5.0, 5.0, 15.0, 5.0, 15.0, 15.0]]


@pytest.fixture(autouse=True)
def scope():
    init_default_scope("mmdet")


def write(folder, images, annotations):
    rows = [
        (image, image["file_name"], [a for a in annotations if a["image"] == place])
        for place, image in enumerate(images)
    ]
    index.write(folder / "train.arrow", rows)


@pytest.fixture
def folder(tmp_path):
    """Seven images of 40 x 32, the one at place 3 without boxes, at place 4 with odd ones.

    Ids of the annotation file are neither places nor labels.
    """
    (tmp_path / "images").mkdir()
    images, annotations = [], []
    for i in range(7):
        pixels = np.full((32, 40, 3), 30 * i, dtype=np.uint8)
        cv2.imwrite(str(tmp_path / "images" / f"{i}.png"), pixels)
        images.append({"id": 10 + i, "file_name": f"{i}.png", "width": 40, "height": 32})
        boxes = [[5, 5, 10, 10]]
        if i == 3:
            boxes = []
        if i == 4:
            boxes = [[-5, -5, 10, 10], [30, 20, 50, 50], [50, 5, 5, 5], [5, 5, 0, 4]]
        for box in boxes:
            annotations.append(
                {"image": i, "label": 1, "bbox": box, "segmentation": [np.array(POLYGON[0])]}
            )
    annotations[0]["iscrowd"] = 1
    for number, annotation in enumerate(annotations):
        annotation["id"] = number
    write(tmp_path, images, annotations)
    split = Split(image_total=7, instance_total=9, masks=True)
    categories = [
        Category(id=i, name=name, frequency="r", image_count=1, instance_count=1)
        for i, name in [(3, "cup"), ("seven", "mug")]
    ]
    Prepared(
        digest="0", evaluation="lvis", train=split, val=split, categories=categories, warnings=[]
    ).save(tmp_path / "dataset.json")
    return tmp_path


def build(folder, pipeline=PIPELINE, seed=0, **kwargs) -> LVISFormatDataset:
    return DATASETS.build(
        {
            "type": "LVISFormatDataset",
            "ann_file": str(folder / "train.arrow"),
            "dataset_info": str(folder / "dataset.json"),
            "images": str(folder / "images"),
            "pipeline": pipeline,
            "seed": seed,
            **kwargs,
        }
    )


def summary(sample):
    meta = sample.metainfo
    return meta["position"], meta["img_id"], meta["img_shape"], meta["flip"]


def read(dataset, loader_workers, steps, batch=4, skip=0):
    """Samples of the first steps as mmengine's own loader gives them."""
    loader = Runner.build_dataloader(
        {
            "dataset": dataset,
            "sampler": {"type": "OrderedSampler", "batch": batch},
            "batch_size": batch // samplers.get_dist_info()[1],
            "num_workers": loader_workers,
            "collate_fn": {"type": "pseudo_collate"},
        },
        seed=5,
    )
    loader.sampler.skip(skip)
    batches = iter(loader)
    return [summary(s) for _ in range(steps) for s in next(batches)["data_samples"]]


def test_labels_follow_the_order_of_categories(folder):
    dataset = build(folder)
    assert dataset.metainfo["classes"] == ("cup", "mug")
    assert {label for i in range(len(dataset)) for label in dataset.get_cat_ids(i)} == {1}


def test_boxes_are_clipped_and_those_without_area_left_out(folder):
    boxes = [instance["bbox"] for instance in build(folder).get_data_info(4)["instances"]]
    assert boxes == [[0, 0, 5, 5], [30, 20, 40, 32]]


def test_boxes_under_a_pixel_are_left_out_where_asked_for(folder):
    box = {"id": 1, "image": 0, "label": 1}
    boxes = [[1, 1, 0.99, 9], [1, 1, 1, 1], [1, 1, 9, 0.5], [1, 1, 9, 9]]
    image = {"id": 10, "file_name": "0.png", "width": 40, "height": 32}
    write(folder, [image], [{**box, "bbox": each} for each in boxes])

    def kept(**options):
        instances = build(folder, **options).get_data_info(0)["instances"]
        return [instance["bbox"] for instance in instances]

    assert kept(least_box=1) == [[1, 1, 2, 2], [1, 1, 10, 10]]
    assert len(kept()) == 4


def test_images_that_do_not_train_are_not_there_for_anyone(folder):
    whole, some = build(folder), build(folder, empty=False)
    assert (len(whole), len(some)) == (7, 6)
    ids = [0, 1, 2, 4, 5, 6]
    assert [some.get_data_info(place)["img_id"] for place in range(6)] == ids
    images, labels = some.presence()
    expected = {
        (ids.index(place), label) for place, label in zip(*map(np.ndarray.tolist, whole.presence()))
    }
    assert set(zip(images.tolist(), labels.tolist())) == expected and len(expected) == 5
    with pytest.raises(IndexError):
        some.get_data_info(6)
    assert len(build(folder, least_side=33)) == 0


CROPS = [
    {"type": "LoadImageFromFile"},
    {"type": "LoadAnnotations", "with_bbox": True, "with_mask": True},
    {
        "type": "RandomCrop",
        "crop_size": (12, 12),
        "allow_negative_crop": True,
        "recompute_bbox": True,
    },
    {"type": "FilterAnnotations", "min_gt_bbox_wh": (1e-2, 1e-2), "keep_empty": False},
    {"type": "RequireBoxes"},
    {"type": "PackDetInputs", "meta_keys": META[:2] + META[4:]},
]


@pytest.fixture
def turned(folder):
    """Twelve images with a box in a corner, which is a crowd in the last; every third is higher
    than wide."""
    images, annotations = [], []
    for i in range(12):
        width, height = (32, 40) if i % 3 == 0 else (40, 32)
        pixels = np.full((height, width, 3), 20 * i, dtype=np.uint8)
        cv2.imwrite(str(folder / "images" / f"{i}.png"), pixels)
        images.append({"id": i, "file_name": f"{i}.png", "width": width, "height": height})
        annotation = {"id": i, "image": i, "label": 1, "bbox": [5, 5, 10, 10]}
        annotations.append(
            {**annotation, "segmentation": [np.array(POLYGON[0])], "iscrowd": int(i == 11)}
        )
    write(folder, images, annotations)
    return folder


def test_image_whose_crop_lost_all_boxes_is_replaced_by_one_of_its_orientation(turned):
    dataset, replaced = build(turned, CROPS), set()
    for position in range(180):
        sample = dataset[Position(position, position % 12)]["data_samples"]
        assert len(sample.gt_instances) == 1 and sample.position == position
        assert (sample.img_id % 3 == 0) == (position % 3 == 0)
        if sample.img_id != position % 12:
            replaced.add((position % 12, sample.img_id))
    assert all(place != 11 for _, place in replaced)  # it has a crowd alone
    assert {place for place, _ in replaced} == set(range(12))
    others = {place for own, place in replaced if own == 1}
    assert others == {2, 4, 5, 7, 8, 10}


def test_replacements_depend_on_seed_and_position_only(turned):
    def summaries(dataset, places):
        found = [(p, dataset[Position(p, p % 12)]) for p in places]
        return {p: (s["data_samples"].img_id, s["inputs"].sum().item()) for p, s in found}

    expected = summaries(build(turned, CROPS), range(60))
    np.random.seed(8)
    assert summaries(build(turned, CROPS), reversed(range(60))) == expected
    assert summaries(build(turned, CROPS, seed=1), range(60)) != expected


def test_pipeline_without_use_for_any_image_is_told(turned):
    dataset = build(turned, CROPS)
    dataset.max_refetch = 5
    dataset.pipeline.transforms[-2].transform = lambda results: None
    with pytest.raises(RunError, match=r"train\.arrow: expected images whose objects remain"):
        dataset[Position(0, 0)]


def test_crowd_is_ignored_in_training(folder):
    sample = build(folder)[0]["data_samples"]
    assert len(sample.gt_instances) == 0 and len(sample.ignored_instances) == 1


@pytest.mark.parametrize("pipeline", [PIPELINE, MASKS])
def test_image_without_boxes_keeps_its_keys(folder, pipeline):
    sample = build(folder, pipeline)[Position(0, 3)]["data_samples"]
    assert sample.gt_instances.bboxes.shape == (0, 4)
    assert sample.gt_instances.labels.shape == (0,)
    assert sample.gt_instances.labels.dtype == torch.int64
    if pipeline is MASKS:
        assert len(sample.gt_instances.masks) == 0


def test_masks_are_held_only_where_the_pipeline_loads_them(folder):
    assert "mask" not in build(folder).get_data_info(1)["instances"][0]
    dataset = build(folder, MASKS)
    (polygon,) = dataset.get_data_info(1)["instances"][0]["mask"]
    assert [polygon.tolist()] == POLYGON
    assert dataset[1]["data_samples"].gt_instances.masks.masks.shape == (1, 32, 40)


@pytest.mark.parametrize(("number", "shown"), [(2, "2"), ("a 2", "'a 2'")])
def test_mask_that_the_pipeline_needs_and_the_file_lacks_is_told(folder, number, shown):
    annotation = {"id": number, "image": 0, "label": 1, "bbox": [5, 5, 10, 10]}
    write(folder, [{"id": 10, "file_name": "0.png", "width": 40, "height": 32}], [annotation])
    build(folder)
    with pytest.raises(UsageError, match=f"annotation {shown}: expected a segmentation"):
        build(folder, MASKS)


@pytest.mark.parametrize(
    ("damage", "loader_workers"), [("missing", 0), ("empty", 0), ("text", 0), ("text", 1)]
)
def test_unreadable_image_is_named_in_one_sentence(folder, damage, loader_workers):
    path = folder / "images" / "2.png"
    path.unlink()
    if damage != "missing":
        path.write_text("" if damage == "empty" else "no image")
    with pytest.raises(RunError) as told:
        read(build(folder), loader_workers, steps=2)
    reason = {
        "missing": "got no such file",
        "empty": "got an empty file",
        "text": "got none of JPEG, PNG, WEBP, TIFF, BMP, GIF, JPEG2000, AVIF, PPM",
    }[damage]
    assert str(told.value) == f"{path}: expected a readable image, {reason}"


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 7])
def test_boxes_are_at_their_objects_however_the_image_is_stored(folder, form, orientation):
    """A white object on black, annotated as a viewer shows it."""
    seen = np.zeros((32, 40), dtype=np.uint8)
    seen[4:12, 20:36] = 255
    transpose = Image.Transpose
    back = {
        3: transpose.ROTATE_180,
        6: transpose.ROTATE_90,  # viewers turn it clockwise, this counterclockwise
        7: transpose.TRANSVERSE,
    }
    stored = Image.fromarray(seen)
    stored = stored.transpose(back[orientation]) if orientation > 1 else stored
    exif = Image.Exif()
    exif[274] = orientation
    how = {"tiffinfo": {274: orientation}} if form == "TIFF" else {"exif": exif}
    stored.save(folder / "images" / "0.png", format=form, **how)
    annotation = {"id": 1, "image": 0, "label": 1, "bbox": [20, 4, 16, 8]}
    image = {"id": 10, "file_name": "0.png", "width": 40, "height": 32}
    write(folder, [image], [annotation])
    pipeline = [PIPELINE[0], PIPELINE[1], {"type": "PackDetInputs", "meta_keys": ("img_id",)}]
    sample = build(folder, pipeline)[0]
    ((x1, y1, x2, y2),) = sample["data_samples"].gt_instances.bboxes.tensor.int().tolist()
    assert tuple(sample["inputs"].shape) == (3, 32, 40)
    inside = sample["inputs"][:, y1:y2, x1:x2].float()
    assert inside.mean() > 240
    assert sample["inputs"].float().sum() < inside.sum() * 1.1


def test_error_of_the_pipeline_itself_is_not_blamed_on_the_image(folder):
    dataset = build(folder, [{"type": "LoadImageFromFile"}, {"type": "LoadProposals"}])
    with pytest.raises(KeyError):
        dataset[0]


def test_draws_depend_on_seed_and_position_only(folder):
    dataset = build(folder)
    first = [summary(dataset[Position(p, 1)]["data_samples"]) for p in range(40)]
    assert len({item[2] for item in first}) == 4 and len({item[3] for item in first}) == 2
    np.random.seed(3)
    fresh = build(folder)
    again = [summary(fresh[Position(p, 1)]["data_samples"]) for p in reversed(range(40))]
    assert again[::-1] == first
    other = build(folder, seed=1)
    assert [summary(other[Position(p, 1)]["data_samples"]) for p in range(40)] != first


def test_global_random_states_are_left_as_they_were(folder):
    dataset = build(folder)

    def draw():
        return np.random.rand(), random.random(), torch.rand(1).item()

    def seed():
        np.random.seed(0), random.seed(0), torch.manual_seed(0)

    seed()
    expected = draw()
    seed()
    dataset[Position(4, 1)]
    assert draw() == expected


@pytest.mark.parametrize("loader_workers", [0, 2])
@pytest.mark.parametrize("ranks", [1, 2])
def test_stream_is_the_same_for_any_ranks_loader_workers_and_resuming(
    folder, monkeypatch, ranks, loader_workers
):
    dataset = build(folder)
    sampler = iter(OrderedSampler(dataset, batch=4, seed=5))
    with_position = [dataset[next(sampler)]["data_samples"] for _ in range(20)]
    expected = [summary(sample) for sample in with_position]

    share = 4 // ranks
    for skip in (0, 3):
        parts = []
        for rank in range(ranks):
            monkeypatch.setattr(samplers, "get_dist_info", lambda r=rank: (r, ranks))
            parts.append(read(dataset, loader_workers, 5 - skip, skip=skip * share))
        merged = [
            item
            for step in range(5 - skip)
            for part in parts
            for item in part[step * share : (step + 1) * share]
        ]
        assert merged == expected[skip * 4 :]


def test_processes_get_the_path_of_the_index_and_not_its_content(folder):
    dataset = build(folder, MASKS)
    assert [dataset[place]["data_samples"].img_id for place in range(7)] == list(range(7))
    assert len(pickle.dumps(dataset.index)) < 1000
    sent = pickle.loads(pickle.dumps(dataset))
    assert [sent[place]["data_samples"].img_id for place in range(7)] == list(range(7))


def test_samples_are_those_of_mmdetections_own_dataset(folder):
    """The same file as COCO JSON, and the same draws: equal to the last bit."""
    content = {
        "images": [],
        "annotations": [],
        "categories": [{"id": 3, "name": "cup"}, {"id": 7, "name": "mug"}],
    }
    ours = build(folder, MASKS)
    for place in range(7):
        entry = ours.index.image(place)
        content["images"].append(
            {"id": entry.id, "file_name": entry.file, "width": 40, "height": 32}
        )
        for n in range(len(entry.labels)):
            content["annotations"].append(
                {
                    "id": len(content["annotations"]),
                    "image_id": entry.id,
                    "category_id": [3, 7][entry.labels[n]],
                    "bbox": entry.boxes[n].tolist(),
                    "area": 50,
                    "segmentation": POLYGON,
                    "iscrowd": int(entry.crowd[n]),
                }
            )
    (folder / "coco.json").write_text(json.dumps(content))
    theirs = DATASETS.build(
        {
            "type": "CocoDataset",
            "ann_file": str(folder / "coco.json"),
            "data_prefix": {"img": str(folder / "images")},
            "metainfo": {"classes": ("cup", "mug")},
            "pipeline": MASKS,
        }
    )
    for place in (0, 1, 2, 3, 5, 6):  # CocoDataset does not clip
        one, other = ours[place], theirs[place]
        assert torch.equal(one["inputs"], other["inputs"])
        for part in ("gt_instances", "ignored_instances"):
            a, b = getattr(one["data_samples"], part), getattr(other["data_samples"], part)
            assert torch.equal(a.bboxes.tensor, b.bboxes.tensor)
            assert torch.equal(a.labels, b.labels)
            assert np.array_equal(a.masks.masks, b.masks.masks)


def test_missing_index_is_told(folder):
    (folder / "train.arrow").unlink()
    with pytest.raises(RunError, match=r"train\.arrow: expected an index that `bacl` has prepared"):
        build(folder)
