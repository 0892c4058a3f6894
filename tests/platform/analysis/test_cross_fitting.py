"""Cross-fitting: the oracle judges each half as a split of its own."""

import json
from pathlib import Path

import numpy as np
import pytest

from bacl.errors import UsageError
from bacl.evaluation import Detections, Evaluator
from bacl_platform.analysis.cross_fitting import cross_fit, halves
from bacl_platform.analysis.results import Result

IMAGES = 44


def half_of(trial, folder, kept):
    """An evaluator of some images alone, and which detections are in them, renumbered."""
    numbers = {old: new for new, old in enumerate(np.flatnonzero(kept).tolist())}
    images = [
        {**one, "id": numbers[one["id"]]} for one in trial.content["images"] if one["id"] in numbers
    ]
    annotations = [
        {**one, "image_id": numbers[one["image_id"]]}
        for one in trial.content["annotations"]
        if one["image_id"] in numbers
    ]
    path = folder / f"half_{len(numbers)}_{images[0]['file_name']}.json"
    path.write_text(json.dumps({**trial.content, "images": images, "annotations": annotations}))
    return Evaluator(path, trial.categories, trial.mode), numbers


def only(detections, numbers):
    kept = np.isin(detections.image, list(numbers))
    image = np.array([numbers[one] for one in detections.image[kept].tolist()])
    return Detections(image, detections.label[kept], detections.score[kept], detections.bbox[kept])


def result(name, seed, detections):
    return Result(
        name, seed, "0" * 16, "corrections", "exact", Path(), {}, {}, [], found=detections
    )


@pytest.fixture
def study(trial, prepared, tmp_path):
    """A split, its dataset, and three rows of two seeds that differ in their scores."""
    one = trial(3, images=IMAGES).untied()
    one.evaluator(tmp_path)
    val = prepared.val.model_copy(update={"annotations": str(tmp_path / "lvis.json")})
    dataset = prepared.model_copy(update={"val": val, "categories": one.categories})
    found = one.detections
    rows = {}
    for name, power in (("a", 1.0), ("b", 0.2), ("c", 3.0)):
        rows[name] = [
            result(
                name,
                seed,
                Detections(
                    found.image,
                    found.label,
                    found.score ** (1 + (found.label * power + seed) % 2),
                    found.bbox,
                ),
            )
            for seed in (0, 1)
        ]
    return one, dataset, rows


@pytest.mark.parametrize("metric", ["AP", "AP50", "AP75", "AP_r"])
def test_each_half_is_judged_as_a_split_of_its_own(study, tmp_path, metric):
    one, dataset, rows = study
    first = halves([f"{number}.png" for number in range(IMAGES)])
    assert first.sum() == IMAGES // 2
    values = {}
    for name, results in rows.items():
        for half, kept in enumerate((first, ~first, np.ones(IMAGES, dtype=bool))):
            evaluator, numbers = half_of(one, tmp_path, kept)
            found = [evaluator.evaluate(only(r.detections(), numbers)).metrics for r in results]
            values[name, half] = np.mean([each[metric] for each in found])
    chosen = [max(rows, key=lambda name: values[name, half]) for half in (0, 1, 2)]
    crossed = cross_fit(rows, dataset, metric)
    assert (crossed.best, crossed.chosen) == (chosen[2], (chosen[0], chosen[1]))
    assert crossed.value == pytest.approx(values[chosen[2], 2], abs=1e-6)
    own = (values[chosen[0], 0] + values[chosen[1], 1]) / 2
    other = (values[chosen[0], 1] + values[chosen[1], 0]) / 2
    assert (crossed.own, crossed.other) == pytest.approx((own, other), abs=1e-6)
    assert other <= own


def test_least_is_chosen_where_less_is_better(study):
    _, dataset, rows = study
    assert cross_fit(rows, dataset, "AP", "min").value <= cross_fit(rows, dataset, "AP").value


def test_halves_follow_names_and_not_their_order():
    names = [f"{number:03}.jpg" for number in range(100)]
    first = halves(names)
    assert halves(names[::-1]).tolist() == first[::-1].tolist()
    assert not np.array_equal(halves(names, seed=1), first)
    assert 30 < first[:50].sum() + (~first)[50:].sum() < 70


def test_halves_that_are_too_small_are_refused(trial, prepared, tmp_path):
    one = trial(3, images=30)
    one.evaluator(tmp_path)
    val = prepared.val.model_copy(update={"annotations": str(tmp_path / "lvis.json")})
    dataset = prepared.model_copy(update={"val": val, "categories": one.categories})
    rows = {name: [result(name, 0, one.detections)] for name in "ab"}
    with pytest.raises(UsageError, match=r"at least 40 validation images, .* got 30"):
        cross_fit(rows, dataset, "AP")


def test_group_that_a_half_lacks_is_refused(study, tmp_path):
    one, dataset, rows = study
    first = halves([f"{number}.png" for number in range(IMAGES)])
    for annotation in one.content["annotations"]:
        if first[annotation["image_id"]] and annotation["category_id"] in (0, 1):
            annotation["category_id"] = 3
    one.evaluator(tmp_path)
    with pytest.raises(UsageError, match="one has none of group r: the split is too small"):
        cross_fit(rows, dataset, "AP")


def test_metric_that_is_no_precision_is_refused(study):
    _, dataset, rows = study
    with pytest.raises(UsageError, match="expected a metric such as AP or AP_r, got AR"):
        cross_fit(rows, dataset, "AR")
