"""AP of boxes and masks against a prepared validation split, by category and by frequency group.

hotcoco computes it: with LVIS's federated rules (a category counts in the images that name it as
present or absent, the 300 best detections of an image count, and boxes of no area count neither in
the ground truth nor in the detections), or with COCO's exhaustive ones, where all detections count
that the detector keeps of an image; COCO's limit of 100 for an image and category does not apply.
In both, groups are the dataset's own, by training images or instances.

Letters: N detections, C categories, T IoU thresholds 0.5, 0.55, ..., 0.95, R recall thresholds.
"""

import csv
import json
import math
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import hotcoco
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from mmengine.dist import broadcast_object_list, get_dist_info
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS
from numpy.typing import NDArray

from bacl import rle
from bacl.datasets.categories import Category
from bacl.datasets.prepared import Prepared
from bacl.digests import sha256
from bacl.errors import RunError, UsageError
from bacl.exchange import Attempts, collect
from bacl.settings import Groups

LVIS_GROUPS = Groups()
MAX_DETECTIONS = 300
"""Largest number of detections of an image that LVIS counts."""
FLUSH_ROWS = 200_000
"""Number of detections that a rank holds in memory before it writes them to its shards."""

_BOXES = pa.schema(
    [("image", pa.int32()), ("label", pa.int32()), ("score", pa.float32())]
    + [(side, pa.float32()) for side in ("x", "y", "width", "height")]
)
_MASKS = _BOXES.append(pa.field("mask", pa.binary()))


@dataclass(frozen=True)
class Detections:
    """N detections in columns.

    image (N,) int, the position in the split; label (N,) int; score (N,); bbox (N, 4) as x, y,
    width, height in pixels of the original image. mask (N,) of bytes, each the counts of COCO's
    compressed RLE over the original image; None where the detector has no masks.
    """

    image: NDArray[Any]
    label: NDArray[Any]
    score: NDArray[Any]
    bbox: NDArray[Any]
    mask: NDArray[Any] | None = None

    @classmethod
    def read(cls, *paths: Path) -> "Detections":
        """Read detections.parquet, or the shards of all ranks."""
        return cls._from_table(_read(paths))

    @classmethod
    def join(cls, *parts: "Detections") -> "Detections":
        """All detections of the parts, which may be of the same images; masks if all have them."""
        masks = [part.mask for part in parts if part.mask is not None]
        return cls(
            np.concatenate([part.image for part in parts]),
            np.concatenate([part.label for part in parts]),
            np.concatenate([part.score for part in parts]),
            np.concatenate([part.bbox for part in parts]),
            np.concatenate(masks) if len(masks) == len(parts) else None,
        )

    @classmethod
    def _from_table(cls, table: pa.Table) -> "Detections":
        sides = [table[name].to_numpy() for name in ("x", "y", "width", "height")]
        return cls(
            table["image"].to_numpy(),
            table["label"].to_numpy(),
            table["score"].to_numpy(),
            np.stack(sides, axis=1),
            table["mask"].to_numpy() if "mask" in table.column_names else None,
        )


@dataclass(frozen=True)
class Result:
    """Result of an evaluation.

    metrics: AP, AP50, AP75 and AP_<group> of each group (LVIS: AP_r, AP_c, AP_f) in 0..1; NaN where
        no category is evaluated. Where detections have masks, metrics of masks follow, as mask_AP
        and so on.
    per_category: one row per category in the order of labels; its `AP` (and `mask_AP`) is None
        where the split has no ground truth of it.
    evaluator: name and version of the evaluator, SHA-256 of the ground truth.
    """

    metrics: dict[str, float]
    per_category: list[dict[str, Any]]
    evaluator: dict[str, str]

    def save(self, folder: Path) -> None:
        """Write metrics.json and categories.csv, each whole or not at all."""
        metrics = {k: None if math.isnan(v) else v for k, v in self.metrics.items()}
        content = {"metrics": metrics, "evaluator": self.evaluator}
        _write(
            folder / "metrics.json",
            lambda p: p.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8"),
        )

        def rows(path: Path) -> None:
            with path.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, list(self.per_category[0]))
                writer.writeheader()
                writer.writerows(self.per_category)

        _write(folder / "categories.csv", rows)


class Evaluator:
    """The ground truth of a split, read once for any number of evaluations.

    Args:
        annotations: normalised annotations of the split, in which ids of images are positions and
            ids of categories are labels.
        categories: in the order of labels, with their groups.
        mode: `lvis` (federated) or `coco` (exhaustive).
        groups: frequency groups; their names are the categories' `frequency`.
    """

    def __init__(
        self,
        annotations: Path,
        categories: Sequence[Category],
        mode: Literal["lvis", "coco"],
        groups: Groups = LVIS_GROUPS,
    ) -> None:
        self.annotations = annotations
        self.categories = categories
        self.mode = mode
        self.groups = groups
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

    def evaluate(self, detections: Detections) -> Result:
        """AP of the detections; 0 for a category that has ground truth and no detection.

        Raises:
            UsageError: detections are of images or categories that the ground truth lacks, masks
                differ in size from its images, or it has no masks to evaluate masks with.
            RunError: scores or boxes are not finite numbers.
        """
        self._check(detections)
        area = detections.bbox[:, 2].astype(np.float64) * detections.bbox[:, 3]
        precision = {"AP": self._precision("bbox", detections, area)}
        if detections.mask is not None:
            area = self._mask_areas(detections.image, detections.mask)
            precision["mask_AP"] = self._precision("segm", detections, area)
        return self._result(precision)

    def _precision(
        self, iou: Literal["bbox", "segm"], detections: Detections, area: NDArray[Any]
    ) -> list[NDArray[Any]]:
        """Precision (T, R) of each category in the order of labels, -1 without ground truth.

        area: area in pixels (N,) of the evaluated boxes or masks.
        """
        kept = self.counting(detections, area)
        image, score = detections.image[kept], detections.score[kept]
        rows = np.empty((len(score), 7))
        rows[:, 0], rows[:, 1:5], rows[:, 5] = image, detections.bbox[kept], score
        rows[:, 6] = detections.label[kept]
        masks: list[Any] | None = None
        if iou == "segm":
            assert detections.mask is not None
            masks = [
                {"size": self._sizes[image], "counts": counts}
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
        run.evaluate()
        run.accumulate()
        assert run.eval is not None
        # (T, R, C, 1, 1) -> (C, T, R)
        precision = np.asarray(run.eval["precision"])[..., 0, 0].transpose(2, 0, 1)
        by_label = dict(zip(run.params.cat_ids, precision, strict=True))
        return [by_label[label] for label in range(len(self.categories))]

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
        judged = self._judged[detections.image, detections.label]
        # hotcoco would pass over the others, which are most of what LVIS's detectors find
        counted = countable(detections, area) if limit else area > 0
        return np.flatnonzero(counted & judged)

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
    def _sizes(self) -> dict[int, list[int]]:
        """[height, width] of each image."""
        images = self.ground_truth.imgs.items()
        return {number: [image["height"], image["width"]] for number, image in images}

    @cached_property
    def _judged(self) -> NDArray[Any]:
        """Whether LVIS judges a category in an image, which names it as present or absent; by their
        ids."""
        images = self.ground_truth.imgs
        judged = np.zeros((max(images, default=-1) + 1, len(self.categories)), dtype=bool)
        for number, image in images.items():
            judged[number, image.get("neg_category_ids", [])] = True  # absent where it is empty
        for label in range(len(self.categories)):
            judged[self.ground_truth.get_img_ids(cat_ids=[label]), label] = True
        return judged

    @cached_property
    def _has_masks(self) -> bool:
        annotations = self.ground_truth.dataset["annotations"]
        return all(annotation.get("segmentation") for annotation in annotations)

    def _mask_areas(self, image: NDArray[Any], masks: NDArray[Any]) -> NDArray[Any]:
        """Areas (N,), in pixels, of the masks of detections in the images `image` (N,)."""
        if not self._has_masks:
            raise UsageError(
                f"{self.annotations}: expected a segmentation in every annotation to judge masks "
                "by, some have none"
            )
        covered, area = rle.measure(masks.tolist())
        pixels = [math.prod(self._sizes[place]) for place in image.tolist()]
        wrong = np.flatnonzero(covered != pixels)
        if wrong.size:
            first = int(image[wrong[0]])
            height, width = self._sizes[first]
            raise UsageError(
                f"expected masks as COCO's compressed RLE of their whole image, got {wrong.size} "
                f"that are none or of another size, such as one of the image at place {first}, "
                f"which is {width} x {height}"
            )
        return area

    def _result(self, precision: dict[str, list[NDArray[Any]]]) -> Result:
        """Result from the precision (T, R) of each category in the order of labels, by the AP's
        name."""
        metrics: dict[str, float] = {}
        rows = [category.model_dump() for category in self.categories]
        for name, of_all in precision.items():
            shown = [values if values.max() > -1 else None for values in of_all]
            metrics |= self._metrics(name, shown)
            for row, values in zip(rows, shown, strict=True):
                row[name] = None if values is None else float(values.mean())
        return Result(metrics, rows, self.provenance)

    def _metrics(self, name: str, shown: Sequence[NDArray[Any] | None]) -> dict[str, float]:
        """Metrics, which are means over categories with ground truth; the others are None in
        `shown`."""

        def mean(values: list[NDArray[Any]]) -> float:
            return float(np.mean(values)) if values else math.nan

        known = [values for values in shown if values is not None]
        metrics = {
            name: mean(known),
            f"{name}50": mean([values[0] for values in known]),
            f"{name}75": mean([values[5] for values in known]),
        }
        for group in self.groups.names:
            metrics[f"{name}_{group}"] = mean(
                [
                    values
                    for values, category in zip(shown, self.categories, strict=True)
                    if values is not None and category.frequency == group
                ]
            )
        return metrics


def countable(detections: Detections, area: NDArray[Any]) -> NDArray[Any]:
    """Mask (N,) of the detections that can count in LVIS: the 300 best of each image, less those
    without area.

    area: area in pixels (N,) of the evaluated boxes or masks.
    """
    best = np.ones(len(area), dtype=bool)
    image = detections.image
    crowded = np.flatnonzero(np.bincount(image)[image] > MAX_DETECTIONS)
    by_image = crowded[np.lexsort((-detections.score[crowded], image[crowded]))]
    image = image[by_image]
    place = np.arange(len(image)) - np.searchsorted(image, image)
    best[by_image] = place < MAX_DETECTIONS
    return best & (area > 0)


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
    """AP of detections against one split; see `Evaluator`."""
    return Evaluator(annotations, categories, mode, groups).evaluate(detections)


@METRICS.register_module()
class BankMetric(BaseMetric):
    """Evaluates every variant of a bank from one pass over the images.

    A sample has its image's position in the split as `img_id`. Its `pred_instances` hold the
    detections of all variants together: `bboxes` (corners, in pixels of the original image),
    `scores`, `labels` and `variant`, the index into `variants`; with `masks`, also `masks`, each
    pycocotools' RLE over the original image.
    Each rank writes what it sees to files in columns, so memory stays flat; those of ranks on other
    machines are sent to rank 0, which merges all of them variant by variant. Images that a sampler
    repeats to even out the ranks count once.

    Every rank returns `{"<variant>/AP": ..., ...}`, without metrics that are NaN. For each variant
    rank 0 writes `<folder>/<variant>/{metrics.json, categories.csv, detections.parquet}`.

    Args:
        annotations: path of the split's normalised annotations.
        dataset_info: `dataset.json`, which gives the categories in the order of labels.
        variants: names of the variants.
        mode: `lvis` or `coco`.
        folder: folder for results, at the same place on every rank; a shared one spares the ranks
            sending their files.
        masks: whether the detector's masks are evaluated as well.
    """

    default_prefix = "variant"  # set because mmengine warns without one; names have their own

    def __init__(
        self,
        annotations: str,
        dataset_info: str,
        variants: Sequence[str],
        mode: Literal["lvis", "coco"],
        folder: str,
        masks: bool = False,
    ) -> None:
        super().__init__()
        self.annotations = Path(annotations)
        prepared = Prepared.load(Path(dataset_info))
        self.categories, self.groups = prepared.categories, prepared.groups
        self.variants = list(variants)
        self.mode = mode
        self.masks = masks
        self.schema = _MASKS if masks else _BOXES
        self.folder = Path(folder)
        self.shards = self.folder / ".shards"
        self._reset()

    def _reset(self) -> None:
        self.seen: set[int] = set()
        self.waiting: list[tuple[NDArray[Any], pa.Table]] = []
        self.writers: list[pq.ParquetWriter] = []

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        for sample in data_samples:
            if sample["img_id"] in self.seen:
                continue
            self.seen.add(sample["img_id"])
            instances = sample["pred_instances"]
            found = {
                name: instances[name].cpu().numpy()
                for name in ("bboxes", "scores", "labels", "variant")
            }
            corners = found["bboxes"].astype(np.float32).reshape(-1, 4)
            columns = [
                np.full(len(corners), sample["img_id"]),
                found["labels"].astype(np.int32),
                found["scores"].astype(np.float32),
                corners[:, 0],
                corners[:, 1],
                corners[:, 2] - corners[:, 0],
                corners[:, 3] - corners[:, 1],
            ]
            if self.schema is _MASKS:
                columns.append([mask["counts"] for mask in instances["masks"]])
            self.waiting.append((found["variant"], pa.table(columns, schema=self.schema)))
        if sum(len(table) for _, table in self.waiting) >= FLUSH_ROWS:
            self._flush()

    def _shard(self, variant: str, rank: int) -> Path:
        return self.shards / f"{variant}.{rank}.parquet"

    def _flush(self) -> None:
        """Write the detections held in memory to this rank's shards."""
        if not self.writers:
            self.shards.mkdir(parents=True, exist_ok=True)
            rank, _ = get_dist_info()
            for name in self.variants:
                self.writers.append(pq.ParquetWriter(self._shard(name, rank), self.schema))
        if self.waiting:
            variant = np.concatenate([index for index, _ in self.waiting])
            table = pa.concat_tables([table for _, table in self.waiting])
            for index, writer in enumerate(self.writers):
                writer.write_table(table.filter(pa.array(variant == index)))
        self.waiting = []

    def evaluate(self, size: int) -> dict[str, float]:
        """Metrics of all variants, the same on every rank; an error of one rank is raised on all.

        size: number of images, as mmengine passes it; not used, because shards name their images.
        """
        rank, ranks = get_dist_info()
        attempts = Attempts()
        with attempts.trying("its detections could not be written"):
            self._flush()
            for writer in self.writers:
                writer.close()
        self._reset()
        attempts.agree()
        collect(self.shards, [self._shard(name, rank).name for name in self.variants])
        outcome: list[Any] = [None]
        if rank == 0:
            try:
                outcome = [self.compute_metrics(list(range(ranks)))]
            except Exception as error:
                outcome = [error]
        broadcast_object_list(outcome)
        if isinstance(outcome[0], Exception):
            raise outcome[0]
        for name in self.variants:  # which rank 0 has removed where it shares the folder
            self._shard(name, rank).unlink(missing_ok=True)
        return outcome[0]

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        """Metrics from the shards of the ranks in `results`."""
        evaluator = Evaluator(self.annotations, self.categories, self.mode, self.groups)
        metrics: dict[str, float] = {}
        for name in self.variants:
            table = _read([self._shard(name, rank) for rank in results])
            result = evaluator.evaluate(Detections._from_table(table))
            folder = self.folder / name
            folder.mkdir(parents=True, exist_ok=True)
            _write(folder / "detections.parquet", partial(pq.write_table, table))
            result.save(folder)
            metrics |= {
                f"{name}/{key}": value
                for key, value in result.metrics.items()
                if not math.isnan(value)
            }
        shutil.rmtree(self.shards)
        return metrics


def _read(paths: Sequence[Path]) -> pa.Table:
    """All ranks' detections, each image's from the first rank that saw it."""
    shards = [pq.ParquetFile(path).read() for path in paths]
    merged = [shards[0]]
    seen = shards[0]["image"].unique()
    for shard in shards[1:]:
        repeated = pc.is_in(shard["image"], value_set=seen)
        merged.append(shard.filter(pc.invert(repeated)))
        seen = pa.concat_arrays([seen, merged[-1]["image"].unique()])
    return pa.concat_tables(merged)


def _write(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it to `path`."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    write(part)
    part.replace(path)
