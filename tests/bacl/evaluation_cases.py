"""Ground truth, detections and files for tests of evaluation."""

import dataclasses
import json

import numpy as np
from pycocotools import mask as coco_mask

from bacl.datasets.categories import Category
from bacl.evaluation import Detections


def federated_case(seed, images=8, categories=7):
    """Ground truth with negatives, not-exhaustive lists, odd boxes and unseen categories."""
    draw = np.random.default_rng(seed)
    cats = [
        {"id": 2 * i + 3, "name": f"c{i}", "frequency": "rcf"[int(draw.integers(3))]}
        for i in range(categories)
    ]
    ids = [category["id"] for category in cats]
    for category in cats:
        category |= {"image_count": 1, "instance_count": 1}
    rows, annotations = [], []
    for image in range(1, images + 1):
        present = draw.choice(ids[:-1], size=draw.integers(0, 4), replace=False)
        absent = [int(c) for c in ids if c not in present and draw.random() < 0.4]
        partial = [int(c) for c in present if draw.random() < 0.3]
        rows.append(
            {
                "id": image * 10,
                "width": 200,
                "height": 150,
                "file_name": f"{image}.jpg",
                "neg_category_ids": absent,
                "not_exhaustive_category_ids": partial,
            }
        )
        for category in present:
            for _ in range(draw.integers(1, 5)):
                x, y, w, h = draw.integers(0, 100, 4).tolist()
                w = 0 if draw.random() < 0.05 else w
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": image * 10,
                        "category_id": int(category),
                        "bbox": [x, y, w, h],
                        "area": w * h,
                        "segmentation": [[x, y, x + w, y, x + w, y + h]],
                    }
                )
    return {"images": rows, "annotations": annotations, "categories": cats}


def normalised(truth):
    """The content of an annotation file as `prepare` writes it: by position and label."""
    categories = sorted(truth["categories"], key=lambda item: item["id"])
    images = {image["id"]: place for place, image in enumerate(truth["images"])}
    labels = {category["id"]: label for label, category in enumerate(categories)}
    lists = ("neg_category_ids", "not_exhaustive_category_ids")
    return {
        "images": [
            image
            | {"id": images[image["id"]]}
            | {name: [labels[one] for one in image[name]] for name in lists if name in image}
            for image in truth["images"]
        ],
        "annotations": [
            one
            | {"id": number, "image_id": images[one["image_id"]]}
            | {"category_id": labels[one["category_id"]]}
            for number, one in enumerate(truth["annotations"], start=1)
        ],
        "categories": [one | {"id": labels[one["id"]]} for one in categories],
    }


def guesses(truth, seed, noise=6.0, false=1.0, tied=False):
    """Perturbed ground truth, some with the wrong category, and false detections."""
    truth = normalised(truth)
    draw = np.random.default_rng([seed, 1])
    ids = [category["id"] for category in truth["categories"]]
    columns = []
    for annotation in truth["annotations"]:
        for _ in range(draw.integers(0, 4)):
            box = np.asarray(annotation["bbox"]) + draw.normal(0, noise, 4)
            category = annotation["category_id"] if draw.random() < 0.8 else draw.choice(ids)
            columns.append((annotation["image_id"], category, draw.random(), *box))
    for image in truth["images"]:
        for _ in range(draw.poisson(false * len(ids))):
            columns.append((image["id"], draw.choice(ids), draw.random(), *draw.uniform(0, 99, 4)))
    table = np.array(columns).reshape(-1, 7)
    table[:, 5:] = np.abs(table[:, 5:])
    table[draw.random(len(table)) < 0.05, 5] = 0
    score = np.round(table[:, 2], 1) if tied else table[:, 2]
    return Detections(
        table[:, 0].astype(np.int64), table[:, 1].astype(np.int64), score, table[:, 3:]
    )


def with_masks(truth, detections, seed):
    """The detections with masks: octagons in or near their boxes, some of them empty."""
    draw = np.random.default_rng([seed, 2])
    sizes = [(image["height"], image["width"]) for image in truth["images"]]
    turns = np.linspace(0, 2 * np.pi, 8, endpoint=False)
    masks = []
    for image, (x, y, w, h) in zip(detections.image, detections.bbox, strict=True):
        reach = draw.uniform(0.6, 1.4, 8)
        corners = [
            x + w / 2 + w / 2 * reach * np.cos(turns),
            y + h / 2 + h / 2 * reach * np.sin(turns),
        ]
        polygon = [] if draw.random() < 0.05 else [np.stack(corners, axis=1).ravel().tolist()]
        masks.append(mask_of(polygon, *sizes[image])["counts"])
    return dataclasses.replace(detections, mask=np.array(masks, dtype=object))


def mask_of(polygons, height, width):
    if not polygons:
        return coco_mask.encode(np.zeros((height, width), dtype=np.uint8, order="F"))
    return coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))


def masks_as_json(truth, detections):
    """As lvis-api and pycocotools take them for masks: without boxes."""
    sizes = {image["id"]: [image["height"], image["width"]] for image in truth["images"]}
    items = as_json(truth, detections)
    for item, counts in zip(items, detections.mask, strict=True):
        del item["bbox"]
        item["segmentation"] = {"size": sizes[item["image_id"]], "counts": counts}
    return items


def as_json(truth, detections):
    """With the ids of the annotation file, from which the oracles take their ground truth."""
    images = [image["id"] for image in truth["images"]]
    categories = sorted(category["id"] for category in truth["categories"])
    return [
        {
            "image_id": images[place],
            "category_id": categories[label],
            "score": float(score),
            "bbox": box.tolist(),
        }
        for place, label, score, box in zip(
            detections.image, detections.label, detections.score, detections.bbox, strict=True
        )
    ]


def categories_of(truth):
    return [
        Category(**{key: item[key] for key in Category.model_fields})
        for item in sorted(truth["categories"], key=lambda item: item["id"])
    ]


def written(path, truth):
    path.write_text(json.dumps(truth))
    return path


def as_prepared(path, truth):
    return written(path, normalised(truth))


def case_files(folder, truth):
    """The annotation file, for the oracles, and what `prepare` makes of it."""
    return written(folder / "file.json", truth), as_prepared(folder / "val.json", truth)


def coco_case(seed):
    truth = federated_case(seed)
    draw = np.random.default_rng(seed)
    for annotation in truth["annotations"]:
        annotation["iscrowd"] = int(draw.random() < 0.2)
    for image in truth["images"]:
        del image["neg_category_ids"], image["not_exhaustive_category_ids"]
    return truth


def none():
    nothing = np.zeros(0)
    return Detections(
        nothing.astype(int), nothing.astype(int), nothing, np.zeros((0, 4)), nothing.astype(object)
    )
