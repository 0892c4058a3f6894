"""What `bacl report` adds to its tables: sections on errors, confusions and differing images."""

from collections.abc import Sequence
from dataclasses import replace

from bacl.errors import UsageError
from bacl_platform.analysis.profiles import Analysis, ConfusedPair, confused_pairs, featured
from bacl_platform.analysis.results import Report
from bacl_platform.report.pages import Section, Shown, Table
from bacl_platform.report.plots.registry import Page, shown
from bacl_platform.report.scenes import scenes

_MOST_CONFUSED = 12
"""Pairs of categories in the table of confusions."""


def sections(
    report: Report,
    analysis: Analysis,
    names: Sequence[str] | None,
    threshold: float,
    images: int,
) -> list[Section]:
    """Sections for `bacl_platform.report.experiment_report.write`.

    names: variants to draw beside the ground truth; None takes the baseline and the two best
    others. threshold: score from which a detection is drawn and counts. images: how many to show.
    Raises UsageError for unknown names, RunError where the dataset's images cannot be read.
    """
    names = featured(report, 3) if names is None else names
    if unknown := [name for name in names if name not in report.variants]:
        raise UsageError(
            f"{report.name}: expected variants to draw among "
            f"{', '.join(report.variants)}, got {unknown[0]}"
        )
    made = []
    analyses = [analysis] if analysis.masks is None else [analysis, analysis.masks]
    if lost := shown(Page.ERRORS, report, analysis):
        only = " All of this is of boxes; masks follow." if analysis.masks else ""
        made.append(
            Section(
                "Where the AP is lost",
                [
                    "Precision and recall are means over the categories of a group. Errors are "
                    "TIDE's, at IoU 0.5: what a group's AP50 would gain if all errors of one kind "
                    "were fixed, each kind by itself. In the matrix, the best detection on a box "
                    "says what it is taken for; only what the annotation can judge "
                    f"counts.{only}"
                ],
                pictures=lost,
            )
        )
    if analysis.masks and (lost := shown(Page.ERRORS, report, analysis.masks)):
        bare = [name for name in report.variants if name not in analysis.masks.profiles]
        without = f" Not among them, for want of masks: {', '.join(bare)}." if bare else ""
        made.append(
            Section(
                "Where the mask AP is lost",
                [
                    "The same of masks: a detection is right where its mask has an IoU of 0.5 or "
                    "more with that of an object of its category. One with a right box and "
                    "another mask is badly placed here or, where masks have an IoU below 0.1, "
                    f"background.{without}"
                ],
                pictures=[replace(one, file=f"mask_{one.file}") for one in lost],
            )
        )
    if guides := shown(Page.GUIDES, report, analysis):
        made.append(Section("What guided training", pictures=guides))
    for one in analyses:
        pairs = confused_pairs(one, featured(report, 4, one.metric), _MOST_CONFUSED)
        if pairs:
            made.append(_confusions(one, pairs))
    if images and len(names) > 1:
        differing = scenes(report, analysis, names, threshold, images)
        if differing:
            made.append(_differences(names, threshold, differing))
    return made


def _confusions(analysis: Analysis, pairs: Sequence[ConfusedPair]) -> Section:
    categories = analysis.prepared.categories
    body = []
    for pair in pairs:
        head, tail = categories[pair.head], categories[pair.tail]
        counts = [f"{called} of {could}" for called, could in pair.counts.values()]
        body.append(
            [
                f"{head.name} ← {tail.name}",
                f"{head.image_count} ← {tail.image_count}",
                *counts,
            ]
        )
    masks = analysis.iou == "segm"
    kind = "masks" if masks else "boxes"
    return Section(
        f"Top confusions{' of masks' if masks else ''}, head ← tail",
        [
            f"How many {kind} of the category on the right have a best detection of the more "
            f"frequent one on the left, of the {kind} that the annotation can judge; over all "
            "seeds."
        ],
        [Table(["head ← tail", "training images", *pairs[0].counts], body)],
    )


def _differences(names: Sequence[str], threshold: float, pictures: Sequence[Shown]) -> Section:
    return Section(
        "Where the variants differ",
        [
            f"Images of the validation split on which {', '.join(names)} differ most in what they "
            f"find at a score of at least {threshold:g}, rare categories weighing more (each box "
            "1 / √training images of its category). Of overlapping detections the best is drawn, "
            "and those that find a box. First seed of each."
        ],
        pictures=pictures,
    )
