"""The pictures of an analysis: what is drawn, read from the figures themselves."""

import dataclasses

import numpy as np
import pytest
import torch
from rich.console import Console

from bacl_platform.analysis.error_types import Confusion
from bacl_platform.analysis.profiles import analyse, featured
from bacl_platform.analysis.results import collect
from bacl_platform.report.plots import analysis as plots
from bacl_platform.report.plots.registry import Page, pictures
from bacl_platform.report.plots.style import png

APS = {
    (name, seed): ap + 0.02 * seed
    for name, ap in {"features": 0.1, "bacl": 0.3, "softmax": 0.2}.items()
    for seed in (0, 1)
}


@pytest.fixture
def study(planned, store, fill):
    plan = planned("seeds=[0, 1]")
    fill(plan.jobs, APS)
    return collect(plan, store, "")


@pytest.fixture
def analysed(study):
    return analyse(study, Console(quiet=True))


def test_pictures_of_an_analysis_are_png(study, analysed):
    for picture in pictures(Page.ERRORS, study, analysed):
        assert png(picture.figure).startswith(b"\x89PNG")


def test_precision_panels_have_a_curve_for_each_variant(study, analysed):
    rare, *others = plots.precision_recall(study, analysed).figure.axes
    assert len(others) == 2
    labels = analysed.members["r"]
    for line, name in zip(rare.get_lines(), study.variants):
        expected = analysed.profiles[name].precision[labels].mean(axis=0)
        np.testing.assert_allclose(line.get_ydata(), expected)
        ap = 100 * np.mean(study.values(name, "AP_r"))
        assert line.get_label() == f"{name} {100 * expected.mean():.1f} ({ap:.1f})"


def test_masks_are_drawn_with_their_own_ap(masked_study, masked_analysis):
    masks = masked_analysis.masks
    rare = plots.precision_recall(masked_study, masks).figure.axes[0]
    assert rare.get_ylabel() == "precision at mask IoU 0.5"
    labels = masks.members["r"]
    for line, name in zip(rare.get_lines(), ("bacl", "softmax"), strict=True):
        expected = masks.profiles[name].precision[labels].mean(axis=0)
        np.testing.assert_allclose(line.get_ydata(), expected)
        ap = 100 * np.mean(masked_study.values(name, "mask_AP_r"))
        assert line.get_label() == f"{name} {100 * expected.mean():.1f} ({ap:.1f})"
    bars = plots.error_gains(masked_study, masks).figure.axes[0]
    assert [tick.get_text() for tick in bars.get_xticklabels()] == ["bacl", "softmax"]
    maps = plots.confusion_maps(masked_study, masks).figure.axes
    assert [axes.get_title() for axes in maps[:2]] == ["softmax", "bacl"]
    assert maps[0].get_ylabel() == "the mask is of"


def test_error_bars_stack_up_to_the_sum_of_gains(study, analysed):
    rare = plots.error_gains(study, analysed).figure.axes[0]
    kinds = {bars.get_label(): bars for bars in rare.containers}
    assert len(kinds) == 6
    number = study.variants.index("bacl")
    gain = 100 * analysed.profiles["bacl"].gain[:, analysed.members["r"]].mean(axis=1)
    assert [bars[number].get_height() for bars in rare.containers] == pytest.approx(gain)
    top = rare.containers[-1][number]
    assert top.get_y() + top.get_height() == pytest.approx(gain.sum())


def test_confusion_map_goes_from_frequent_to_rare(study, analysed):
    figure = plots.confusion_maps(study, analysed).figure
    names = [axes.get_title() for axes in figure.axes]
    assert names[:3] == featured(study, 4)
    drawn = figure.axes[0].images[0].get_array()
    share = analysed.profiles[names[0]].confusion.share
    order = analysed.order
    np.testing.assert_allclose(drawn[:, :-1].filled(np.nan), share[np.ix_(order, order)])
    ticks = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert ticks == [analysed.prepared.categories[label].name for label in order]


def test_matrix_of_training_is_shown_where_a_variant_has_one(study, analysed):
    assert plots.indicator_maps(study, analysed) is None
    categories = len(analysed.order)
    tally = torch.cat([torch.rand(categories, categories), torch.full((categories, 1), 4.0)], dim=1)
    for result in study.of("bacl"):
        state = {"roi_head.bbox_head.variants.bacl.indicator.tally": tally}
        torch.save({"state_dict": state}, result.folder.parents[1] / "checkpoint.pth")
    figure = plots.indicator_maps(study, analysed).figure
    axes, _ = figure.axes
    assert axes.get_title() == "bacl"
    expected = tally[:, :-1].numpy()[np.ix_(analysed.order, analysed.order)] / 4
    np.testing.assert_allclose(axes.images[0].get_array(), expected, rtol=1e-6)
    png(figure)


def test_featured_are_baseline_and_best_classifiers(study):
    assert featured(study, 2) == ["softmax", "bacl"]
    assert featured(study, 9) == ["softmax", "bacl", "features"]


def test_bins_of_one_category_are_its_shares():
    counts = np.array([[3, 1, 0], [0, 0, 2]])
    confusion = Confusion(counts, np.array([[4, 2], [0, 2]]))
    shares = plots.binned_shares(confusion, [np.array([0]), np.array([1])])
    np.testing.assert_allclose(shares, [[0.75, 0.5, 0], [np.nan, 0, 1]])


def test_bins_pool_their_categories():
    # 0 and 1 share a bin: of 10 boxes 6 are right, 1 in 5 of their judged pairs is confused
    counts = np.array([[4, 1, 1, 0], [0, 2, 1, 1], [0, 0, 9, 1]])
    judged = np.array([[6, 3, 2], [2, 4, 2], [10, 10, 10]])
    shares = plots.binned_shares(Confusion(counts, judged), [np.array([0, 1]), np.array([2])])
    np.testing.assert_allclose(shares[0], [6 / 10 + 1 / 5, 2 / 4, 1 / 10])
    np.testing.assert_allclose(shares[1], [0, 9 / 10, 1 / 10])


def test_many_categories_are_binned_within_their_groups(analysed):
    # thousands of labels, as LVIS has them, in the groups of the few here
    few = len(analysed.order)
    prepared = analysed.prepared.model_copy(
        update={"categories": [analysed.prepared.categories[k % few] for k in range(40 * few)]}
    )
    order = np.array(sorted(range(40 * few), key=lambda k: analysed.order.tolist().index(k % few)))
    many = dataclasses.replace(analysed, prepared=prepared, order=order)
    bins = plots._bins(many)
    assert len(bins) <= 100 + 3
    np.testing.assert_array_equal(np.concatenate(bins), order)
    assert all(len({prepared.categories[k].frequency for k in labels}) == 1 for labels in bins)
