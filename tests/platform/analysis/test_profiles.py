"""What lies behind the AP: precision and recall, errors, confusions."""

import numpy as np
import pytest

from bacl.evaluation import Detections
from bacl_platform.analysis import profiles
from bacl_platform.analysis.error_types import KINDS
from bacl_platform.analysis.matching import RECALLS, match


def test_curves_are_the_evaluators_ap50_as_means_over_seeds(flawed, prepared, analysed):
    evaluator = profiles.evaluator_of(prepared)
    for name, profile in analysed.profiles.items():
        results = [
            evaluator.evaluate(Detections.read(result.folder / "detections.parquet"))
            for result in flawed.of(name)
        ]
        expected = np.mean([result.metrics["AP50"] for result in results])
        known = np.concatenate(list(analysed.members.values()))
        assert profile.precision[known].mean() == pytest.approx(expected)


def test_curves_of_masks_are_the_evaluators_mask_ap50(masked_study, prepared, masked_analysis):
    evaluator = profiles.evaluator_of(prepared)
    masks = masked_analysis.masks
    assert masks.metric == "mask_AP" and masks.masks is None
    known = np.concatenate(list(masks.members.values()))
    for name, profile in masks.profiles.items():
        results = [evaluator.evaluate(result.detections()) for result in masked_study.of(name)]
        expected = np.mean([result.metrics["mask_AP50"] for result in results])
        assert profile.precision[known].mean() == pytest.approx(expected)
        # a third of a box is hardly ever half of an object
        badly_placed = profile.gain[list(KINDS).index("Loc"), known].mean()
        assert expected < 0.3 < badly_placed


def test_analysis_of_boxes_does_not_depend_on_masks(analysed, masked_analysis):
    assert analysed.masks is None
    assert analysed.profiles.keys() == masked_analysis.profiles.keys()
    for name, profile in analysed.profiles.items():
        other = masked_analysis.profiles[name]
        np.testing.assert_array_equal(profile.precision, other.precision)
        np.testing.assert_array_equal(profile.gain, other.gain)
        np.testing.assert_array_equal(profile.confusion.counts, other.confusion.counts)


def test_masks_are_judged_of_variants_that_have_them_with_every_seed(masked_study, masked_analysis):
    assert list(masked_analysis.masks.profiles) == ["bacl", "softmax"]
    assert profiles.featured(masked_study, 9, "mask_AP") == ["softmax", "bacl"]


def test_groups_hold_the_categories_that_have_boxes(prepared, analysed):
    assert list(analysed.members) == ["r", "c", "f"]
    for group, labels in analysed.members.items():
        assert {prepared.categories[label].frequency for label in labels} == {group}
    counts = [prepared.categories[label].image_count for label in analysed.order]
    assert counts == sorted(counts, reverse=True)


def test_all_errors_are_wrong_names_where_all_boxes_are_hit(analysed):
    gain = analysed.profiles["features"].gain
    named = list(KINDS).index("Cls")
    known = np.concatenate(list(analysed.members.values()))
    assert np.nanmax(np.abs(np.delete(gain, named, axis=0))) == 0
    # every detection names the next category: mended, all boxes are found of which that is judged
    judged = analysed.profiles["features"].confusion.judged
    for label in known:
        recall = judged[label, (label + 1) % len(judged)] / judged[label, label]
        assert gain[named, label] == pytest.approx((recall >= RECALLS).sum() / len(RECALLS))


def test_perfect_seed_has_no_error(flawed, prepared):
    detections = flawed.of("bacl")[0].detections()
    matched = match(profiles.evaluator_of(prepared), detections)
    assert matched.right[0].all() and (matched.found > 0)[matched.truth.counted].all()
    assert len(detections.bbox) == len(matched.found)


def test_confusions_are_counted_over_seeds(analysed):
    softmax = analysed.profiles["softmax"].confusion
    total = np.bincount(analysed.truth.label, minlength=len(analysed.order))
    np.testing.assert_array_equal(softmax.judged.diagonal(), 2 * total)
    # of either seed, each category's boxes beyond the first 40 percent go to the next
    np.testing.assert_array_equal(
        softmax.counts[:, :-1].diagonal(), 2 * np.ceil(0.4 * total).astype(int)
    )


def test_confused_pairs_go_from_rarer_to_more_frequent_groups(prepared, analysed):
    pairs = profiles.confused_pairs(analysed, ["bacl", "softmax"], 100)
    rank = {"r": 0, "c": 1, "f": 2}
    groups = [(prepared.categories[p.tail], prepared.categories[p.head]) for p in pairs]
    assert groups and all(rank[tail.frequency] < rank[head.frequency] for tail, head in groups)
    most = [max(called for called, _ in pair.counts.values()) for pair in pairs]
    assert most == sorted(most, reverse=True) and min(most) > 0
    assert set(pairs[0].counts) == {"bacl", "softmax"}
    assert len(profiles.confused_pairs(analysed, ["softmax"], 1)) == 1
