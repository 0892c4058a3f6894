"""The pictures of a report: what is drawn, read from the figures themselves."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from bacl.settings import Groups
from bacl_platform.analysis.results import collect
from bacl_platform.report.plots import results, style
from bacl_platform.report.plots.registry import Page, pictures

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


def lines(axes):
    return {line.get_label(): line for line in axes.get_lines()}


def test_every_picture_is_a_png_that_is_wide_enough(study, tmp_path):
    for picture in pictures(Page.RESULTS, study):
        path = tmp_path / picture.file
        path.write_bytes(style.png(picture.figure))
        assert Image.open(path).width == 1600
        assert np.asarray(Image.open(path).convert("L")).std() > 10


def test_groups_have_a_bar_for_each_variant(study, prepared):
    (axes,) = results.ap_by_group(study).figure.axes
    heights = {bars.get_label(): [b.get_height() for b in bars] for bars in axes.containers[::2]}
    # all, rare, common, frequent; means over the seeds 30 and 32
    assert heights["bacl"] == pytest.approx([31, 31 / 4, 31 / 2, 31])
    assert heights["softmax"] == pytest.approx([21, 21 / 4, 21 / 2, 21])
    rare = sum(category.frequency == "r" for category in prepared.categories)
    assert [label.get_text().split()[:2] for label in axes.get_xticklabels()][:2] == [
        ["all", str(len(prepared.categories))],
        ["rare", str(rare)],
    ]


def test_masks_and_groups_of_ones_own_are_drawn(study):
    groups = Groups(by="instances", bounds=[8, 20, 60], names=["1", "2", "3", "4"])
    prepared = study.prepared.model_copy(update={"groups": groups})
    for result in study.results:
        for row in result.categories:
            row["frequency"] = groups.name(0, int(row["instance_count"]))
            row["mask_AP"] = row["AP"] / 2
        result.metrics.update(dict.fromkeys(("AP_1", "AP_2", "AP_3", "AP_4"), 0.2))
        result.metrics.update({f"mask_{k}": v / 2 for k, v in list(result.metrics.items())})
    own = dataclasses.replace(study, prepared=prepared)
    assert [p.file for p in pictures(Page.RESULTS, own)][:2] == [
        "ap_by_group.png",
        "mask_ap_by_group.png",
    ]
    (axes,) = results.ap_by_group(own, "mask_AP").figure.axes
    assert axes.get_ylabel() == "Mask AP (points)"
    told = [label.get_text().split("\n")[0] for label in axes.get_xticklabels()]
    assert told == ["all", "group 1", "group 2", "group 3", "group 4"]
    assert [bar.get_height() for bar in axes.containers[0]][1:] == pytest.approx([10] * 4)
    (axes,) = results.ap_by_variant(own, "mask_AP").figure.axes
    assert [len(bars) for bars in axes.containers] == [3] * 4
    style.png(results.weight_norms(own).figure)


def test_variants_have_a_bar_for_each_group_with_the_deviation_over_seeds(study, prepared):
    (axes,) = results.ap_by_variant(study).figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["features", "bacl", "softmax"]
    lengths = {bars.get_label(): [b.get_width() for b in bars] for bars in axes.containers[::2]}
    rare = sum(category.frequency == "r" for category in prepared.categories)
    # means over the seeds 10 and 12, 30 and 32, 20 and 22; rare a quarter of it, common a half
    assert next(iter(lengths)) == f"rare ({rare} categories)"
    assert list(lengths.values()) == [
        pytest.approx([11 / 4, 31 / 4, 21 / 4]),
        pytest.approx([11 / 2, 31 / 2, 21 / 2]),
        pytest.approx([11, 31, 21]),
    ]
    (spread,) = axes.containers[5].lines[2]
    low, high = spread.get_segments()[1][:, 0]
    assert (low, high) == pytest.approx((31 - 2**0.5, 31 + 2**0.5))


def test_dots_are_categories_by_training_count(study, prepared):
    (axes,) = results.ap_by_count(study).figure.axes
    dots = axes.collections[study.variants.index("bacl")].get_offsets()
    # means over the seeds 30 and 32; rare a quarter of it, common a half
    part = {"r": 0.25, "c": 0.5, "f": 1}
    expected = [(c.image_count, 31 * part[c.frequency]) for c in prepared.categories]
    np.testing.assert_allclose(dots, expected)
    assert lines(axes).keys() >= {"bacl", "softmax", "features"}


def test_line_goes_through_means_of_half_decades(study, prepared):
    (axes,) = results.ap_by_count(study).figure.axes
    x, y = lines(axes)["bacl"].get_data()
    bins = {}
    for c in prepared.categories:
        ap = 31 * {"r": 0.25, "c": 0.5, "f": 1}[c.frequency]
        bins.setdefault(int(2 * np.log10(c.image_count)), []).append((c.image_count, ap))
    np.testing.assert_allclose(
        list(zip(x, y)), [np.mean(bins[number], axis=0) for number in sorted(bins)]
    )


def test_error_bars_are_the_deviation_over_seeds(study):
    (axes,) = results.ap_by_group(study).figure.axes
    (bars,) = axes.containers[1].lines[2]
    low, high = bars.get_segments()[0][:, 1]
    assert high - low == pytest.approx(2 * np.std([10, 12], ddof=1))


def test_group_without_categories_is_left_out(planned, store, fill):
    plan = planned()
    fill(plan.jobs, APS, rare=False)
    (axes,) = results.ap_by_group(collect(plan, store, "")).figure.axes
    assert [t.get_text().split()[0] for t in axes.get_xticklabels()] == [
        "all",
        "common",
        "frequent",
    ]


def test_weight_norms_go_from_most_to_fewest_instances(study, prepared):
    axes, below = results.weight_norms(study).figure.axes
    counts = [bar.get_height() for bar in below.containers[0]]
    assert counts == sorted((c.instance_count for c in prepared.categories), reverse=True)
    # the made weights of a category have its label as their norm
    labels = sorted(
        range(len(prepared.categories)), key=lambda i: -prepared.categories[i].instance_count
    )
    drawn = lines(axes)
    assert {"features", "bacl", "softmax"} <= set(drawn)
    np.testing.assert_allclose(drawn["bacl"].get_ydata(), labels)


def test_weight_norms_of_variants_that_are_exported_whole(study):
    for result in study.of("bacl"):
        content = torch.load(result.checkpoint)
        weights = content["state_dict"].pop("roi_head.bbox_head.fc_cls.weight")
        more = torch.full((3, 4), 50.0)  # columns of groups, behind the categories'
        place = "roi_head.bbox_head.fc_cls.variant.fc_cls.weight"
        content["state_dict"][place] = torch.cat([2 * weights[:-1], more])
        torch.save(content, result.checkpoint)
    axes, _ = results.weight_norms(study).figure.axes
    drawn = lines(axes)
    np.testing.assert_allclose(drawn["bacl"].get_ydata(), 2 * drawn["softmax"].get_ydata())


def test_training_curves_are_means_over_seeds(study):
    above, trunk, rate = results.training(study, "heads").figure.axes
    loss = lines(above)
    assert set(loss) == {"bacl", "softmax"}
    # seed 0 logged 1 / step and seed 1 logged 2 / step
    np.testing.assert_allclose(loss["bacl"].get_xdata(), range(1, 13))
    np.testing.assert_allclose(loss["bacl"].get_ydata(), [1.5 / step for step in range(1, 13)])
    assert set(lines(trunk)) == {"rpn cls"}
    assert set(rate.get_lines()[0].get_ydata()) == {0.01}


def test_stage_that_stores_features_has_no_training_curves(planned, replayed, store, fill):
    plan = planned(*replayed)
    fill(plan.jobs, APS | {("fcbl", 0): 0.3, ("bce", 0): 0.2})
    files = {picture.file for picture in pictures(Page.RESULTS, collect(plan, store, ""))}
    trained = {name for name in files if name.startswith("training_")}
    assert trained == {"training_features.png", "training_heads.png", "training_quick.png"}


def test_trunk_that_does_not_train_has_no_legend(study, recwarn):
    for rows in study.scalars.values():
        for row in rows:
            row.pop("loss_rpn_cls", None)
    _, trunk, _ = results.training(study, "heads").figure.axes
    assert trunk.get_legend() is None and not recwarn.list


def test_variant_keeps_its_colour_in_every_picture(study):
    (bars,) = [
        bars
        for bars in results.ap_by_group(study).figure.axes[0].containers[::2]
        if bars.get_label() == "bacl"
    ]
    norms = lines(results.weight_norms(study).figure.axes[0])["bacl"]
    loss = lines(results.training(study, "heads").figure.axes[0])["bacl"]
    assert bars[0].get_facecolor()[:3] == pytest.approx(
        tuple(int(norms.get_color()[i : i + 2], 16) / 255 for i in (1, 3, 5))
    )
    assert norms.get_color() == loss.get_color()


def test_loss_of_a_variant_is_the_sum_of_its_parts_and_stages(study):
    for job in study.finished:
        for row in study.scalars[job.key]:
            if "bacl.loss_cls" in row:
                del row["bacl.loss_cls"]
                row |= {"bacl.loss_group0": 1.0, "s1.bacl.loss_foreground": 0.5}
    above = results.training(study, "heads").figure.axes[0]
    assert lines(above)["bacl"].get_ydata() == pytest.approx(1.5)


def test_names_are_drawn_as_they_are_and_nothing_is_warned_of(study, recwarn):
    names = ["$1_$", "a_$x^$", "line\nbreak", "😀", "שלום", "n" * 200]
    for result in study.results:
        for number, row in enumerate(result.categories):
            row["name"] = names[number % len(names)]
    figure = results.weight_norms(study).figure
    assert style.png(figure)
    shown = [text.get_text() for text in figure.axes[1].get_xticklabels()]
    assert {"$1_$", "a_$x^$", "line↵break", "😀", "שלום"} < set(shown)
    assert max(map(len, shown)) <= 28
    assert not [warning for warning in recwarn if "lyph" in str(warning.message)]
