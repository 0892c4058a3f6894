"""Boundary AP against loops over pixels."""

import evaluation_oracles as oracles
import numpy as np
import pytest
from evaluation_cases import (
    case_files,
    categories_of,
    federated_case,
    guesses,
    mask_of,
    masks_as_json,
    with_masks,
)
from pycocotools import mask as coco_mask

from bacl.evaluation import Evaluator
from bacl.evaluation.masks import boundary


@pytest.mark.parametrize("seed", range(20))
def test_boundary_is_what_is_close_to_the_outline(seed):
    draw = np.random.default_rng(seed)
    height, width = draw.integers(20, 120, 2).tolist()
    corners = draw.uniform(-0.2, 1.2, (6, 2)) * (width, height)
    mask = coco_mask.decode(mask_of([corners.ravel().tolist()], height, width))
    if seed == 0:
        mask[:] = 1  # the image's edge is an outline, too
    if seed == 1:
        mask[:] = 0
    share = float(draw.uniform(0.005, 0.08))
    made = boundary(coco_mask.encode(np.asfortranarray(mask)), share)
    expected = oracles.boundary(mask.astype(bool), share)
    assert np.array_equal(coco_mask.decode(made).astype(bool), expected)


@pytest.mark.parametrize("seed", [2, 3])
def test_boundary_ap_equals_loops_over_the_definition(seed, tmp_path):
    truth = federated_case(seed, images=4)
    _, path = case_files(tmp_path, truth)
    found = with_masks(truth, guesses(truth, seed), seed)
    result = Evaluator(path, categories_of(truth), "lvis").evaluate(found)
    items = masks_as_json(truth, found)
    for item in items:
        item["area"] = int(coco_mask.area(item["segmentation"]))

    def overlap(item, one):
        own = mask_of(one["segmentation"], 150, 200)
        return oracles.boundary_iou(item["segmentation"], own), 0.0

    judged = oracles.matched(truth, items, True, overlap)
    each = {
        category: oracles.average_precision([o for o in judged if o[2] == category], count)
        for category, count in oracles.totals(truth, True).items()
    }
    assert each
    rows = {row["id"]: row["boundary_AP"] for row in result.per_category}
    known = {category: value for category, value in rows.items() if value is not None}
    assert known == pytest.approx(each)
    assert result.metrics["boundary_AP"] == pytest.approx(np.mean(list(each.values())))
    assert result.metrics["boundary_AP"] <= result.metrics["mask_AP"]
