"""Differences of two variants, and intervals from an explicit loop over resampled images."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from rich.console import Console

from bacl.errors import UsageError
from bacl.evaluation import Detections, Evaluator
from bacl_platform.analysis import compare, differences
from bacl_platform.analysis.contenders import contender
from bacl_platform.analysis.results import collect
from bacl_platform.report import comparison_report

QUIET = Console(quiet=True)


def evaluated(study, prepared, variant):
    """The evaluator's own results of a variant, by seed."""
    evaluator = Evaluator(Path(prepared.val.annotations), prepared.categories, prepared.evaluation)
    return [
        evaluator.evaluate(Detections.read(result.folder / "detections.parquet"))
        for result in study.of(variant)
    ]


def test_differences_are_the_evaluators_means_over_seeds(rivals, prepared, compared):
    first, second = (evaluated(rivals, prepared, name) for name in ("softmax", "bacl"))
    assert compared.seeds == [0, 1]
    assert list(compared.metrics) == ["AP", "AP50", "AP75", "AP_r", "AP_c", "AP_f"]
    for name, change in compared.metrics.items():
        assert change.first == pytest.approx(np.mean([r.metrics[name] for r in first]))
        assert change.second == pytest.approx(np.mean([r.metrics[name] for r in second]))
        by_seed = [b.metrics[name] - a.metrics[name] for a, b in zip(first, second)]
        assert change.by_seed == pytest.approx(by_seed)
        assert change.low <= change.difference <= change.high


@pytest.mark.parametrize("seeds", [(0, 1), (0,)])
def test_interval_is_that_of_a_loop_that_evaluates_every_resample(
    rivals, prepared, tmp_path, seeds
):
    """Whatever is drawn is evaluated anew; variances by numpy, quantiles by scipy."""
    resamples = 40
    pair = [contender(rivals, name) for name in ("softmax", "bacl")]
    pair = [replace(c, results=[r for r in c.results if r.seed in seeds]) for c in pair]
    compared = compare.compare(*pair, resamples, QUIET, seed=3)
    content = json.loads(Path(prepared.val.annotations).read_text(encoding="utf-8"))
    images = content["images"]
    assert [image["id"] for image in images] == list(range(len(images)))
    runs = [[Detections.read(r.folder / "detections.parquet") for r in c.results] for c in pair]
    generator = np.random.default_rng(3)
    drawn_differences = []
    for _ in range(resamples):
        drawn = np.sort(generator.integers(len(images), size=len(images)))
        evaluator = resampled(content, [images[k] for k in drawn], prepared, tmp_path)
        first, second = (
            [evaluator.evaluate(copied(d, drawn)).metrics["AP_c"] for d in of_seeds]
            for of_seeds in runs
        )
        drawn_differences.append(np.subtract(second, first))
    change = compared.metrics["AP_c"]
    common = {k for k, c in enumerate(prepared.categories) if c.frequency == "c"}
    shown = {a["image_id"] for a in content["annotations"] if a["category_id"] in common}
    together = np.cov(np.array(drawn_differences).T).reshape(len(seeds), len(seeds))
    of_images = together[0, -1] * len(shown) / (len(shown) - 1)  # of two seeds, or of the only one
    quantile = scipy.stats.t.ppf(0.975, len(shown) - 1)
    variance = of_images
    if len(seeds) == 2:
        of_seeds = np.var(change.by_seed, ddof=1) / 2
        variance = of_images + of_seeds
        quantile = (of_images * quantile + of_seeds * scipy.stats.t.ppf(0.975, 1)) / variance
        assert change.of_seeds == pytest.approx(of_seeds)
    assert change.of_images == pytest.approx(of_images)
    half = quantile * variance**0.5
    assert (change.low, change.high) == pytest.approx(
        (change.difference - half, change.difference + half), abs=1e-6
    )
    assert (change.p_value < 0.05) == change.clear


def resampled(content, drawn, prepared, folder):
    """An evaluator of the drawn images at places 0, 1, ..."""
    images, annotations = [], []
    for new, image in enumerate(drawn):
        images.append({**image, "id": new})
        for annotation in content["annotations"]:
            if annotation["image_id"] == image["id"]:
                number = len(annotations) + 1
                annotations.append({**annotation, "id": number, "image_id": new})
    path = folder / "drawn.json"
    made = {"images": images, "annotations": annotations, "categories": content["categories"]}
    path.write_text(json.dumps(made))
    return Evaluator(path, prepared.categories, prepared.evaluation)


def copied(detections, drawn):
    """The detections of the drawn images at their new places."""
    rows = [np.flatnonzero(detections.image == image) for image in drawn]
    places = np.repeat(np.arange(len(drawn)), [len(one) for one in rows])
    every = np.concatenate(rows)
    return Detections(
        places, detections.label[every], detections.score[every], detections.bbox[every]
    )


def test_better_variant_is_named_with_its_interval_and_what_it_is_uncertain_by(compared):
    assert compared.metrics["AP"].clear
    assert re.fullmatch(
        r"AP \+\d+\.\d \[\d+\.\d, \d+\.\d\] ± \d+\.\d: bacl is better than softmax; "
        r"uncertainty mostly from images \(\d+%\)",
        compared.verdict("AP"),
    )


def test_worse_variant_is_named_too(rivals):
    compared = compare.compare(contender(rivals, "bacl"), contender(rivals, "softmax"), 60, QUIET)
    assert ": softmax is worse than bacl; " in compared.verdict("AP")
    assert compared.gained() == []


def test_seeds_that_disagree_leave_a_question_open(study_of, rival_aps):
    apart = study_of({**rival_aps, ("bacl", 0): 0.5, ("bacl", 1): 1.0})
    compared = compare.compare(contender(apart, "softmax"), contender(apart, "bacl"), 60, QUIET)
    change = compared.metrics["AP"]
    assert not change.clear and change.these[0] > 0
    assert change.share_of_seeds > 0.5 and change.settling in range(3, 20)
    said = compared.verdict("AP")
    assert f"; {change.settling} seeds would settle a difference of this size" in said
    assert "no clear difference; uncertainty mostly from seeds (" in said


def test_one_seed_says_nothing_of_others(rivals):
    pair = [contender(rivals, name) for name in ("softmax", "bacl")]
    one = [replace(c, results=c.results[:1]) for c in pair]
    compared = compare.compare(*one, 30, QUIET)
    change = compared.metrics["AP"]
    assert (change.low, change.high) == change.these
    assert np.isnan(change.of_seeds) and change.settling is None
    assert compared.verdict("AP").endswith(": bacl is better than softmax")


def test_variants_of_another_stage_1_have_independent_seeds(rivals):
    one, other = (contender(rivals, name) for name in ("softmax", "bacl"))
    apart = replace(one, results=[replace(r, stage1=f"of seed {r.seed}") for r in one.results])
    compared = compare.compare(apart, other, 30, QUIET)
    aps = [
        [measured.metrics["AP"] for measured in evaluated(rivals, rivals.prepared, name)]
        for name in ("softmax", "bacl")
    ]
    expected = (np.var(aps[0], ddof=1) + np.var(aps[1], ddof=1)) / 2
    assert compared.metrics["AP"].of_seeds == pytest.approx(expected)
    assert any("do not share stage 1" in note for note in compared.notes)


def test_detector_that_is_the_same_for_all_seeds_counts_once(rivals):
    pair = [contender(rivals, name) for name in ("softmax", "bacl")]
    same = [replace(c, results=[replace(c.results[0], seed=seed) for seed in (0, 1)]) for c in pair]
    assert compare.compare(*same, 20, QUIET).seeds == [0]


def test_equal_variants_do_not_differ(study_of, rival_aps):
    equal = study_of(dict.fromkeys(rival_aps, 0.5))
    compared = compare.compare(contender(equal, "softmax"), contender(equal, "bacl"), 30, QUIET)
    assert compared.verdict("AP_r") == "AP_r +0.0 [0.0, 0.0] ± 0.0: no clear difference"
    assert compared.gained() == compared.lost() == []


def test_categories_come_from_the_largest_gain_to_the_largest_loss(prepared, rivals, compared):
    differences = [change.difference for change in compared.categories["AP"]]
    assert differences == sorted(differences, reverse=True)
    first, second = (evaluated(rivals, prepared, name) for name in ("softmax", "bacl"))
    for change in compared.categories["AP"]:
        label = prepared.categories.index(change.category)
        ap = [np.mean([r.per_category[label]["AP"] for r in runs]) for runs in (first, second)]
        assert change.difference == pytest.approx(ap[1] - ap[0])


def test_category_in_few_images_has_no_interval(rivals, prepared, compared, monkeypatch):
    assert all(change.low <= change.high for change in compared.categories["AP"])
    content = json.loads(Path(prepared.val.annotations).read_text(encoding="utf-8"))
    images = {}
    for annotation in content["annotations"]:
        images.setdefault(annotation["category_id"], set()).add(annotation["image_id"])
    fewest = min(map(len, images.values())) + 1
    monkeypatch.setattr(differences, "FEWEST_IMAGES", fewest)
    without = compare.compare(contender(rivals, "softmax"), contender(rivals, "bacl"), 20, QUIET)
    of_boxes = without.categories["AP"]
    bare = {change.category.id for change in of_boxes if np.isnan(change.low)}
    few = [label for label, shown in images.items() if len(shown) < fewest]
    assert bare == {prepared.categories[label].id for label in few} != set()
    assert not any(c.clear for c in of_boxes if c.category.id in bare)


def test_only_seeds_of_both_are_compared(two_seeds, store, fill, rival_aps):
    features, heads = two_seeds.jobs[:2]
    fill([features, heads, two_seeds.jobs[2]], rival_aps)
    report = collect(two_seeds, store, "")
    assert compare.compare(
        contender(report, "features"), contender(report, "bacl"), 20, QUIET
    ).seeds == [0]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("softmax", "nobody"), "expected one of features, bacl, softmax .* got nobody"),
        (("bacl", "bacl"), "expected two different variants, got bacl twice"),
    ],
)
def test_bad_names_are_told(rivals, names, message):
    with pytest.raises(UsageError, match=message):
        compare.compare(*(contender(rivals, name) for name in names), 20, QUIET)


def test_variants_without_a_common_seed_are_told(two_seeds, store, fill, rival_aps):
    fill([two_seeds.jobs[1], two_seeds.jobs[2]], rival_aps)
    with pytest.raises(UsageError, match="none in common"):
        report = collect(two_seeds, store, "")
        compare.compare(contender(report, "features"), contender(report, "bacl"), 20, QUIET)


def test_masks_are_compared_where_both_variants_have_them(
    study_of, rival_aps, prepared, give_masks, tmp_path
):
    study = study_of(rival_aps)
    assert prepared.val.masks
    give_masks(study)
    compared = compare.compare(contender(study, "softmax"), contender(study, "bacl"), 30, QUIET)
    names = ["AP", "AP50", "AP75", "AP_r", "AP_c", "AP_f"]
    assert list(compared.metrics) == [*names, *(f"mask_{name}" for name in names)]
    first, second = (evaluated(study, prepared, name) for name in ("softmax", "bacl"))
    for name, change in compared.metrics.items():
        assert change.first == pytest.approx(np.mean([r.metrics[name] for r in first]))
        assert change.second == pytest.approx(np.mean([r.metrics[name] for r in second]))
    assert compared.metrics["mask_AP"].first < compared.metrics["AP"].first
    for change in compared.categories["mask_AP"]:
        label = prepared.categories.index(change.category)
        assert change.second == pytest.approx(
            np.mean([r.per_category[label]["mask_AP"] for r in second])
        )
    said = comparison_report.as_json(compared)
    assert [row["id"] for row in said["mask_categories"]] != []
    page = comparison_report.write(compared, tmp_path)
    text = page.with_suffix(".md").read_text()
    assert "| mask_AP50 |" in text
    assert (tmp_path / "mask_compare_softmax_bacl.png").is_file()
    for result in study.results:
        if result.variant == "softmax":
            for name in names:
                del result.metrics[f"mask_{name}"]
    assert (
        list(
            compare.compare(
                contender(study, "softmax"), contender(study, "bacl"), 20, QUIET
            ).metrics
        )
        == names
    )
