"""Metrics of boxes and masks against a prepared validation split, by category and by frequency
group.

hotcoco computes AP: with LVIS's federated rules (a category counts in the images that name it as
present or absent, the 300 best detections of an image count, and boxes of no area count neither in
the ground truth nor in the detections), or with COCO's exhaustive ones, where all detections count
that the detector keeps of an image; COCO's limit of 100 for an image and category does not apply.
In both, groups are the dataset's own, by training images or instances.

The other metrics come from one matching of all detections (`bacl.evaluation.matching`).

Letters: N detections, C categories, T IoU thresholds 0.5, 0.55, ..., 0.95, R recall thresholds.
"""

import csv
import gc
import json
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import hotcoco
import numpy as np
from numpy.typing import NDArray

from bacl import rle
from bacl.datasets.categories import Category
from bacl.digests import sha256
from bacl.errors import RunError, UsageError
from bacl.evaluation.detections import Detections, write_whole
from bacl.evaluation.fixed import BEST, Unlimited, best_of_categories, limit_of
from bacl.evaluation.masks import Rle, boundary_overlap, mask_overlap
from bacl.evaluation.matching import THRESHOLDS, Boxes, Overlap, box_overlap, match
from bacl.evaluation.values import Matched, Values
from bacl.metric_names import BOUNDARY, CALIBRATION, FIXED, POOL, RECALL
from bacl.settings import Groups

LVIS_GROUPS = Groups()
MAX_DETECTIONS = 300
"""Largest number of detections of an image that LVIS counts."""

Iou = Literal["bbox", "segm"]
"""What overlaps: boxes, or masks where the detections have them."""


@dataclass(frozen=True)
class Result:
    """Result of an evaluation.

    metrics: by the names of `bacl.metric_names`, 0..1; NaN where no category is evaluated. Those of
        masks are there where detections have masks.
    per_category: one row per category in the order of labels; its `AP`, `APFixed` and `AR` (and
        those of masks) are None where the split has no ground truth of it.
    evaluator: name and version of the evaluator, SHA-256 of the ground truth.
    fixed_limit: the number of detections of an image to which those were cut that AP-Fixed and
        AP-Pool were computed from; None where they were not cut.
    """

    metrics: dict[str, float]
    per_category: list[dict[str, Any]]
    evaluator: dict[str, str]
    fixed_limit: int | None = None

    def save(self, folder: Path) -> None:
        """Write metrics.json and categories.csv, each whole or not at all."""
        metrics = {k: None if math.isnan(v) else v for k, v in self.metrics.items()}
        content = {
            "metrics": metrics,
            "evaluator": self.evaluator,
            "fixed_limit": self.fixed_limit,
        }
        write_whole(
            folder / "metrics.json",
            lambda p: p.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8"),
        )

        def rows(path: Path) -> None:
            with path.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, list(self.per_category[0]))
                writer.writeheader()
                writer.writerows(self.per_category)

        write_whole(folder / "categories.csv", rows)


class Evaluator:
    """The ground truth of a split, read once for any number of evaluations.

    Args:
        annotations: normalised annotations of the split, in which ids of images are positions and
            ids of categories are labels.
        categories: in the order of labels, with their groups.
        mode: `lvis` (federated) or `coco` (exhaustive).
        groups: frequency groups; their names are the categories' `frequency`.
        best: detections of a category that AP-Fixed and AP-Pool count.
    """

    def __init__(
        self,
        annotations: Path,
        categories: Sequence[Category],
        mode: Literal["lvis", "coco"],
        groups: Groups = LVIS_GROUPS,
        best: int = BEST,
    ) -> None:
        self.annotations = annotations
        self.categories = categories
        self.mode = mode
        self.groups = groups
        self.best = best
        self.ground_truth = hotcoco.COCO(str(annotations))
        if mode == "lvis" and self.ground_truth.get_ann_ids(area_rng=[-np.inf, 0]):
            content = self.ground_truth.dataset
            content["annotations"] = [a for a in content["annotations"] if a["area"] > 0]
            self.ground_truth = hotcoco.COCO(content)
        self.provenance = {
            "name": "hotcoco",
            "version": hotcoco.__version__,
            "ground_truth_sha256": sha256(annotations),
        }

    def evaluate(self, detections: Detections, unlimited: Unlimited | None = None) -> Result:
        """Metrics of the detections; 0 for a category that has ground truth and no detection.

        unlimited: of these detections; without it, AP-Fixed counts the best of each category among
            the detections themselves, and the result says so where they seem to be cut.

        Raises:
            UsageError: detections are of images or categories that the ground truth lacks, masks
                differ in size from its images, or it has no masks to evaluate masks with.
            RunError: scores or boxes are not finite numbers.
        """
        self._check(detections)
        limit = None if unlimited else limit_of(detections)
        if unlimited is None:
            within = best_of_categories(detections, len(self.categories), self.best)
            unlimited = Unlimited(within, detections.at(np.zeros(0, dtype=np.int64)))
        values = Values(self.categories, self.groups)
        area = detections.bbox[:, 2].astype(np.float64) * detections.bbox[:, 3]
        self._judge("bbox", detections, area, unlimited, values)
        if detections.mask is not None:
            area = self._mask_areas(detections.image, detections.mask)
            self._judge("segm", detections, area, unlimited, values)
        return Result(values.metrics, values.rows, self.provenance, limit)

    def _judge(
        self,
        iou: Iou,
        detections: Detections,
        area: NDArray[Any],
        unlimited: Unlimited,
        values: Values,
    ) -> None:
        """Add the metrics of boxes or masks.

        area: area in pixels (N,) of these.
        """
        prefix = "mask_" if iou == "segm" else ""
        counted = self.counting(detections, area, limit=False)
        kept = self._limited(detections, counted)
        run = self._run(iou, detections, kept)
        with ThreadPoolExecutor(1) as beside:  # hotcoco computes without holding Python's lock
            curves = beside.submit(curves_of, run)
            matched = self._match(iou, detections, counted, kept, unlimited)
        precision, recall = curves.result()
        values.add_means(f"{prefix}AP", precision.mean(axis=(1, 2)), precision.mean(axis=2))
        if matched.fixed is not None:
            values.add_means(f"{prefix}{FIXED}", matched.of_categories(matched.fixed))
            values.add_sets(f"{prefix}{POOL}", matched.pooled)
        values.add_means(f"{prefix}{RECALL}", recall.mean(axis=1))
        if iou == "bbox":
            values.add_sets(CALIBRATION, matched.calibration_error)
        else:
            matched = self._match(iou, detections, counted, kept, unlimited, boundary=True)
            values.add_means(BOUNDARY, matched.of_categories(matched.limited))

    def _match(
        self,
        iou: Iou,
        detections: Detections,
        counted: NDArray[Any],
        kept: NDArray[Any],
        unlimited: Unlimited,
        boundary: bool = False,
    ) -> Matched:
        """Match all detections that any metric counts.

        counted: rows of those that count where no image has a limit. kept: of those that AP counts.
        boundary: match by boundaries of masks.
        """
        every, beyond = detections, unlimited.beyond
        within = np.append(unlimited.within, np.ones(len(beyond.score), dtype=bool))
        if iou == "bbox" and len(beyond.score):
            every = Detections.join(replace(detections, mask=None), beyond)
            sides = beyond.bbox[:, 2:].astype(np.float64)
            rows = self.counting(beyond, sides.prod(axis=1), limit=False)
            counted = np.append(counted, rows + len(detections.score))
        limited: NDArray[Any] = np.zeros(len(every.score), dtype=bool)
        limited[kept] = True
        fixed: NDArray[Any] | None = None
        if not boundary and len(every.score) == len(within):  # what lies beyond has no masks
            fixed = np.zeros(len(within), dtype=bool)
            fixed[counted] = within[counted]
        some = np.flatnonzero(limited if fixed is None else limited | fixed)
        some = some[np.argsort(every.image[some], kind="stable")]
        image, label = every.image[some], every.label[some]
        matches = match(
            image,
            label,
            every.score[some],
            self._truth,
            self._overlap(iou, every, some, boundary),
            self.partial[image, label],
        )
        return Matched(
            label,
            every.score[some],
            matches,
            limited[some],
            None if fixed is None else fixed[some],
            self._totals,
        )

    def _overlap(self, iou: Iou, found: Detections, rows: NDArray[Any], boundary: bool) -> Overlap:
        """How much the detections in some rows overlap with the ground truth."""
        if iou == "bbox":
            return box_overlap(found.bbox[rows], self._truth)
        masks = found.mask
        assert masks is not None

        def of_detection(number: int) -> Rle:
            row = rows[number]
            return {"size": self.sizes[int(found.image[row])], "counts": masks[row]}

        if boundary:
            return boundary_overlap(of_detection, self._truth, self._masks_of_truth, THRESHOLDS[0])
        return mask_overlap(of_detection, self._truth, self._masks_of_truth)

    def average_precision(self, detections: Detections) -> NDArray[Any]:
        """AP (C,) of boxes alone; NaN for categories without ground truth. Raises what `evaluate`
        raises."""
        self._check(detections)
        area = detections.bbox[:, 2].astype(np.float64) * detections.bbox[:, 3]
        precision, _ = curves_of(self._run("bbox", detections, self.counting(detections, area)))
        return precision.mean(axis=(1, 2))

    def _run(self, iou: Iou, detections: Detections, kept: NDArray[Any]) -> hotcoco.COCOeval:
        """What hotcoco is to compute, of the detections in the rows `kept`."""
        image, score = detections.image[kept], detections.score[kept]
        rows = np.empty((len(score), 7))
        rows[:, 0], rows[:, 1:5], rows[:, 5] = image, detections.bbox[kept], score
        rows[:, 6] = detections.label[kept]
        masks: list[Any] | None = None
        if iou == "segm":
            assert detections.mask is not None
            masks = [
                {"size": self.sizes[image], "counts": counts}
                for image, counts in zip(
                    image.tolist(), detections.mask[kept].tolist(), strict=True
                )
            ]
        run = hotcoco.COCOeval(
            self.ground_truth,
            self.ground_truth.load_res(rows, segmentation=masks),
            iou,
            lvis_style=self.mode == "lvis",
        )
        # hotcoco's LVIS mode keeps 300 of an image itself; COCO's limit is for each image and
        # category
        run.params.max_dets = [MAX_DETECTIONS if self.mode == "lvis" else max(len(rows), 1)]
        run.params.area_rng = [run.params.area_rng[0]]
        run.params.area_rng_lbl = ["all"]
        return run

    def counting(
        self, detections: Detections, area: NDArray[Any], limit: bool = True
    ) -> NDArray[Any]:
        """Rows of the detections that can count: with LVIS's rules, of the 300 best of each image
        those with an area and of a category that the image is judged for.

        area: area in pixels (N,) of the evaluated boxes or masks.
        limit: whether only the 300 best of an image count; AP-Fixed knows no such limit.
        """
        if self.mode == "coco":
            return np.arange(len(detections.score))
        # hotcoco would pass over the others, which are most of what LVIS's detectors find
        judged = self.judged[detections.image, detections.label]
        rows = np.flatnonzero((area > 0) & judged)
        return self._limited(detections, rows) if limit else rows

    def _limited(self, detections: Detections, rows: NDArray[Any]) -> NDArray[Any]:
        """Those of some rows that count where an image has a limit."""
        return rows if self.mode == "coco" else rows[best_of_images(detections)[rows]]

    def _check(self, detections: Detections) -> None:
        for kind, ids, known in (
            ("images", detections.image, self.ground_truth.get_img_ids()),
            ("categories", detections.label, self.ground_truth.get_cat_ids()),
        ):
            unknown = np.setdiff1d(_distinct(ids), known)
            if unknown.size:
                raise UsageError(
                    f"expected detections of the {kind} of the ground truth, got {unknown.size} "
                    f"others, such as {unknown[0]}: the detections are of another dataset"
                )
        for name, values in (("scores", detections.score), ("boxes", detections.bbox)):
            if not np.isfinite(values).all():
                raise RunError(f"expected detections with finite {name}, got NaN or infinity")

    @cached_property
    def _images(self) -> dict[int, dict[str, Any]]:
        """The images, by their ids."""
        return self.ground_truth.imgs

    @cached_property
    def sizes(self) -> dict[int, list[int]]:
        """[height, width] of each image."""
        images = self._images.items()
        return {number: [image["height"], image["width"]] for number, image in images}

    @cached_property
    def _annotations(self) -> list[dict[str, Any]]:
        """The annotations, in the order of the file."""
        with uncollected():
            found: list[dict[str, Any]] = self.ground_truth.dataset["annotations"]
        return found

    @cached_property
    def _truth(self) -> Boxes:
        """The boxes of the ground truth, in the order of the file."""
        annotations = self._annotations
        return Boxes(
            image=np.array([one["image_id"] for one in annotations], dtype=np.int64),
            label=np.array([one["category_id"] for one in annotations], dtype=np.int64),
            bbox=np.array([one["bbox"] for one in annotations], dtype=np.float64).reshape(-1, 4),
            crowd=np.array([bool(one.get("iscrowd")) for one in annotations], dtype=bool),
        )

    @cached_property
    def _totals(self) -> NDArray[Any]:
        """Boxes (C,) of each category, without crowds."""
        return np.bincount(self._truth.label[~self._truth.crowd], minlength=len(self.categories))

    def _masks_of_truth(self, number: int) -> Rle:
        if number not in self._known_masks:
            self._known_masks[number] = self.ground_truth.ann_to_rle(self._annotations[number])
        return self._known_masks[number]

    @cached_property
    def _known_masks(self) -> dict[int, Rle]:
        return {}

    @cached_property
    def partial(self) -> NDArray[Any]:
        """Whether the ground truth of a category is not exhaustive in an image, which LVIS knows
        and COCO does not; by their ids."""
        return self._listed("not_exhaustive_category_ids") & (self.mode == "lvis")

    @cached_property
    def judged(self) -> NDArray[Any]:
        """Whether LVIS judges a category in an image, which names it as present or absent; by their
        ids."""
        judged = self._listed("neg_category_ids")
        for label in range(len(self.categories)):
            judged[self.ground_truth.get_img_ids(cat_ids=[label]), label] = True
        return judged

    def _listed(self, key: str) -> NDArray[Any]:
        """Whether an image lists a category under a key; by their ids."""
        images = self._images
        lists = [image.get(key) or () for image in images.values()]  # absent where it is empty
        lengths = np.array([len(one) for one in lists], dtype=np.int64)
        rows = np.repeat(np.array(list(images), dtype=np.int64), lengths)
        listed = np.zeros((max(images, default=-1) + 1, len(self.categories)), dtype=bool)
        listed[rows, np.fromiter(chain.from_iterable(lists), np.int64)] = True
        return listed

    @cached_property
    def _has_masks(self) -> bool:
        return all(annotation.get("segmentation") for annotation in self._annotations)

    def _mask_areas(self, image: NDArray[Any], masks: NDArray[Any]) -> NDArray[Any]:
        """Areas (N,), in pixels, of the masks of detections in the images `image` (N,)."""
        if not self._has_masks:
            raise UsageError(
                f"{self.annotations}: expected a segmentation in every annotation to judge masks "
                "by, some have none"
            )
        covered, area = rle.measure(masks.tolist())
        pixels = [math.prod(self.sizes[place]) for place in image.tolist()]
        wrong = np.flatnonzero(covered != pixels)
        if wrong.size:
            first = int(image[wrong[0]])
            height, width = self.sizes[first]
            raise UsageError(
                f"expected masks as COCO's compressed RLE of their whole image, got {wrong.size} "
                f"that are none or of another size, such as one of the image at place {first}, "
                f"which is {width} x {height}"
            )
        return area


def curves_of(run: hotcoco.COCOeval) -> tuple[NDArray[Any], NDArray[Any]]:
    """Precision (C, T, R) and recall (C, T) as hotcoco computes them; NaN for categories without
    ground truth."""
    run.evaluate()
    run.accumulate()
    assert run.eval is not None
    labels = np.argsort(run.params.cat_ids)
    # (T, R, C, 1, 1) and (T, C, 1, 1)
    precision = np.asarray(run.eval["precision"])[..., 0, 0].transpose(2, 0, 1)[labels]
    recall = np.asarray(run.eval["recall"])[..., 0, 0].T[labels]
    absent = precision.max(axis=(1, 2)) == -1
    return (
        np.where(absent[:, None, None], np.nan, precision),
        np.where(absent[:, None], np.nan, recall),
    )


def best_of_images(detections: Detections) -> NDArray[Any]:
    """Mask (N,) of the detections that LVIS counts, the 300 best of each image."""
    image = detections.image
    best = np.ones(len(image), dtype=bool)
    crowded = np.flatnonzero(np.bincount(image)[image] > MAX_DETECTIONS)
    by_image = crowded[np.lexsort((-detections.score[crowded], image[crowded]))]
    image = image[by_image]
    place = np.arange(len(image)) - np.searchsorted(image, image)
    best[by_image] = place < MAX_DETECTIONS
    return best


@contextmanager
def uncollected() -> Iterator[None]:
    """Hold garbage collection off, which goes through all objects again and again while many come
    into being: a validation split's annotations take four times as long with it."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _distinct(ids: NDArray[Any]) -> NDArray[Any]:
    """Each whole number once, without sorting them all."""
    if not len(ids) or ids.min() < 0 or ids.max() > 4 * len(ids) + 1_000_000:
        return np.unique(ids)
    return np.flatnonzero(np.bincount(ids))


def evaluate(
    annotations: Path,
    categories: Sequence[Category],
    detections: Detections,
    mode: Literal["lvis", "coco"],
    groups: Groups = LVIS_GROUPS,
) -> Result:
    """Metrics of detections against one split; see `Evaluator`."""
    return Evaluator(annotations, categories, mode, groups).evaluate(detections)
