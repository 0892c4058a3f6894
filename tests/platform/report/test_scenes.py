"""Images on which variants differ: which are chosen, and what is drawn."""

import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from bacl.errors import RunError
from bacl.evaluation import Detections
from bacl_platform.analysis import profiles as analysis
from bacl_platform.analysis.results import collect
from bacl_platform.report import scenes as pictures
from bacl_platform.report.drawing import group_colour

APS = {("features", 0): 0.0, ("bacl", 0): 1.0, ("softmax", 0): 0.4}
NAMES = ["softmax", "bacl"]


@pytest.fixture
def study(planned, store, fill):
    plan = planned()
    fill(plan.jobs, APS)
    return collect(plan, store, "")


@pytest.fixture
def analysed(study):
    return analysis.analyse(study, Console(quiet=True))


def found(analysed, **scores):
    """The analysis with other scores of the boxes that variants find."""
    profiles = {
        name: dataclasses.replace(analysed.profiles[name], found=np.array(values))
        for name, values in scores.items()
    }
    return dataclasses.replace(analysed, profiles={**analysed.profiles, **profiles})


def test_images_are_ranked_by_boxes_that_only_some_find(analysed, prepared):
    expected = {}
    for box, (image, label) in enumerate(zip(analysed.truth.image, analysed.truth.label)):
        scores = [analysed.profiles[name].found[box] >= 0.3 for name in NAMES]
        if any(scores) and not all(scores):
            weight = prepared.categories[label].image_count ** -0.5
            expected[int(image)] = expected.get(int(image), 0) + weight
    scenes = pictures.choose(analysed, NAMES, 0.3, len(analysed.files))
    assert {scene.image for scene in scenes} == set(expected)
    weights = [expected[scene.image] for scene in scenes]
    assert weights == pytest.approx(sorted(weights, reverse=True))


def test_rare_box_outweighs_frequent_ones(analysed, prepared):
    truth = analysed.truth
    rare = int(np.flatnonzero(np.isin(truth.label, analysed.members["r"]))[0])
    frequent = np.flatnonzero(
        np.isin(truth.label, analysed.members["f"]) & (truth.image != truth.image[rare])
    )[:2]
    softmax, bacl = np.full((2, len(truth.id)), -1.0)
    bacl[rare] = softmax[frequent] = 0.9
    scenes = pictures.choose(found(analysed, softmax=softmax, bacl=bacl), NAMES, 0.3, 1)
    assert scenes == [pictures.Scene(int(truth.image[rare]), [rare])]


def test_threshold_decides_what_is_found(analysed):
    low, high = np.full((2, len(analysed.truth.id)), 0.5)
    high[0] = 0.9
    changed = found(analysed, softmax=low, bacl=high)
    assert pictures.choose(changed, NAMES, 0.3, 5) == []
    assert [scene.boxes for scene in pictures.choose(changed, NAMES, 0.7, 5)] == [[0]]


def test_scene_shows_truth_and_variants_side_by_side(study, analysed):
    (shown,) = pictures.scenes(study, analysed, NAMES, 0.3, 1)
    picture = Image.open(io.BytesIO(shown.content))
    assert picture.width == 3 * 420 + 2 * 12
    assert shown.title.endswith(": ground truth, softmax, bacl")
    assert Image.open(io.BytesIO(shown.inside)).format == "JPEG"
    # bacl finds all at 0.9, softmax calls some of them something else at 0.5
    assert "found by bacl (0.90), not by softmax" in shown.caption
    (scene,) = pictures.choose(analysed, NAMES, 0.3, 1)
    assert shown.caption.startswith(analysed.files[scene.image])


def test_boxes_have_their_groups_colour(study, analysed, prepared):
    (scene,) = pictures.choose(analysed, NAMES, 0.3, 1)
    (shown,) = pictures.scenes(study, analysed, NAMES, 0.3, 1)
    pixels = np.asarray(Image.open(io.BytesIO(shown.content)).convert("RGB"))
    scale = 420 / max(Image.open(Path(prepared.val.images) / analysed.files[scene.image]).size)
    box = scene.boxes[0]
    x, y, width, height = analysed.truth.bbox[box] * scale
    group = prepared.categories[analysed.truth.label[box]].frequency
    colour = group_colour(["r", "c", "f"].index(group))
    truth = pixels[28:, :420]
    bottom = truth[round(y + height) - 1, round(x) : round(x + width)]
    assert (np.abs(bottom.astype(int) - colour).sum(axis=1) == 0).mean() > 0.5


def test_best_of_a_place_is_drawn_and_what_finds_a_box():
    here, near, far = (10, 10, 20, 20), (11, 10, 20, 20), (60, 60, 9, 9)
    boxes = np.array([here, near, near, far, here], dtype=float)
    scores = np.array([0.5, 0.9, 0.6, 0.4, 0.3])
    detections = Detections(np.ones(5, dtype=int), np.arange(5), scores, boxes)
    nobody, last = np.array([-1]), np.array([4, -1])
    rows = np.arange(5)
    assert pictures._uncluttered(detections, rows, nobody).tolist() == [3, 1]
    assert pictures._uncluttered(detections, rows, last).tolist() == [4, 3, 1]
    assert pictures._uncluttered(detections, rows[:0], last).tolist() == []


def test_image_that_is_gone_is_told(study, analysed, tmp_path):
    split = analysed.prepared.val.model_copy(update={"images": str(tmp_path)})
    elsewhere = analysed.prepared.model_copy(update={"val": split})
    with pytest.raises(
        RunError, match=r"readable image of the dataset \(`--images 0`.*got no such"
    ):
        pictures.scenes(study, dataclasses.replace(analysed, prepared=elsewhere), NAMES, 0.3, 1)
