"""AP of detections against a prepared validation split, by category and by frequency group.

hotcoco computes it: with LVIS's federated rules (a category counts in the images that name it as
present or absent, the 300 best detections of an image count, and boxes of no area count neither in
the ground truth nor in the detections), or with COCO's exhaustive ones, where
at most 300 detections per image *and category* count, instead of COCO's 100, so that both modes
judge the same output. In both, groups go by the training images of a category.

Letters: N detections, C categories, T IoU thresholds 0.5, 0.55, ..., 0.95, R recall thresholds.
"""

import csv
import json
import math
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, Literal

import hotcoco
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from mmengine.dist import barrier, broadcast_object_list, get_dist_info
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS

from bacl.datasets.annotations import Category, Prepared, sha256
from bacl.errors import RunError, UsageError

MAX_DETECTIONS = 300
FLUSH_ROWS = 200_000
"""Detections that a rank holds in memory before it writes them to its shards."""

_SCHEMA = pa.schema(
    [("image_id", pa.int64()), ("category_id", pa.int32()), ("score", pa.float32())]
    + [(side, pa.float32()) for side in ("x", "y", "width", "height")]
)


@dataclass(frozen=True)
class Detections:
    """N detections in columns.

    image_id (N,) int, category_id (N,) int (the annotation file's, not labels), score (N,),
    bbox (N, 4) as x, y, width, height in pixels of the original image.
    """

    image_id: np.ndarray
    category_id: np.ndarray
    score: np.ndarray
    bbox: np.ndarray

    @classmethod
    def read(cls, path: Path) -> "Detections":
        return cls._from_table(pq.read_table(path))

    @classmethod
    def _from_table(cls, table: pa.Table) -> "Detections":
        sides = [table[name].to_numpy() for name in ("x", "y", "width", "height")]
        return cls(
            table["image_id"].to_numpy(),
            table["category_id"].to_numpy(),
            table["score"].to_numpy(),
            np.stack(sides, axis=1),
        )


@dataclass(frozen=True)
class Result:
    """What an evaluation says.

    metrics: AP, AP50, AP75, AP_r, AP_c, AP_f in 0..1; NaN where no category is evaluated.
    per_category: one row per category in the order of labels; its `AP` is None where the split has
        no ground truth of it.
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
            folder / "metrics.json", lambda p: p.write_text(json.dumps(content, indent=1) + "\n")
        )

        def rows(path: Path) -> None:
            with path.open("w", newline="") as file:
                writer = csv.DictWriter(file, list(self.per_category[0]))
                writer.writeheader()
                writer.writerows(self.per_category)

        _write(folder / "categories.csv", rows)


class Evaluator:
    """The ground truth of a split, read once for any number of evaluations.

    Args:
        annotations: normalised annotations of the split, which LVIS's and COCO's are too.
        categories: in the order of labels, with their groups.
        mode: `lvis` (federated) or `coco` (exhaustive).
    """

    def __init__(
        self, annotations: Path, categories: Sequence[Category], mode: Literal["lvis", "coco"]
    ) -> None:
        self.categories = categories
        self.mode = mode
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
            UsageError: detections of images or categories that the ground truth lacks.
            RunError: scores or boxes that are not finite numbers.
        """
        self._check(detections)
        if self.mode == "lvis":
            detections = _countable(detections)
        columns = (detections.image_id, detections.bbox, detections.score, detections.category_id)
        rows = np.column_stack([column.astype(np.float64) for column in columns])
        run = hotcoco.COCOeval(
            self.ground_truth,
            self.ground_truth.load_res(rows),
            "bbox",
            lvis_style=self.mode == "lvis",
        )
        run.params.max_dets = [MAX_DETECTIONS]
        run.params.area_rng = [run.params.area_rng[0]]
        run.params.area_rng_lbl = ["all"]
        run.evaluate()
        run.accumulate()
        assert run.eval is not None
        # (T, R, C, 1, 1) -> (C, T, R); -1 throughout a category without ground truth
        precision = np.asarray(run.eval["precision"])[..., 0, 0].transpose(2, 0, 1)
        by_id = dict(zip(run.params.cat_ids, precision, strict=True))
        return self._result([by_id[category.id] for category in self.categories])

    def _check(self, detections: Detections) -> None:
        for kind, ids, known in (
            ("images", detections.image_id, self.ground_truth.get_img_ids()),
            ("categories", detections.category_id, self.ground_truth.get_cat_ids()),
        ):
            unknown = np.setdiff1d(ids, known)
            if unknown.size:
                raise UsageError(
                    f"expected detections of the {kind} of the ground truth, got {unknown.size} "
                    f"others, such as {unknown[0]}: the detections are of another dataset"
                )
        for name, values in (("scores", detections.score), ("boxes", detections.bbox)):
            if not np.isfinite(values).all():
                raise RunError(f"expected detections with finite {name}, got NaN or infinity")

    def _result(self, precision: list[np.ndarray]) -> Result:
        """From the precision (T, R) of each category in the order of labels."""
        with_truth = [bool(values.max() > -1) for values in precision]

        def mean(values: list[np.ndarray]) -> float:
            return float(np.mean(values)) if values else math.nan

        shown = [values for values, kept in zip(precision, with_truth, strict=True) if kept]
        metrics = {
            "AP": mean(shown),
            "AP50": mean([values[0] for values in shown]),
            "AP75": mean([values[5] for values in shown]),
        }
        for group in ("r", "c", "f"):
            of_group = [
                values
                for values, kept, category in zip(
                    precision, with_truth, self.categories, strict=True
                )
                if kept and category.frequency == group
            ]
            metrics[f"AP_{group}"] = mean(of_group)
        rows = [
            {**category.model_dump(), "AP": float(values.mean()) if kept else None}
            for category, values, kept in zip(self.categories, precision, with_truth, strict=True)
        ]
        return Result(metrics, rows, self.provenance)


def _countable(detections: Detections) -> Detections:
    """The 300 best of each image, those of no area counted among them and then passed over."""
    by_image = np.lexsort((-detections.score, detections.image_id))
    image = detections.image_id[by_image]
    place = np.arange(len(image)) - np.searchsorted(image, image)
    best = np.zeros(len(image), dtype=bool)
    best[by_image] = place < MAX_DETECTIONS
    best &= np.prod(detections.bbox[:, 2:].astype(np.float64), axis=1) > 0
    return Detections(*(getattr(detections, field.name)[best] for field in fields(detections)))


def evaluate(
    annotations: Path,
    categories: Sequence[Category],
    detections: Detections,
    mode: Literal["lvis", "coco"],
) -> Result:
    """AP of detections against one split; see `Evaluator`."""
    return Evaluator(annotations, categories, mode).evaluate(detections)


@METRICS.register_module()
class BankMetric(BaseMetric):
    """Evaluates every variant of a bank from one pass over the images.

    A sample's `pred_instances` hold the detections of all variants together: `bboxes` (corners, in
    pixels of the original image), `scores`, `labels` and `variant`, the index into `variants`.
    Each rank writes what it sees to files in columns, so memory stays flat; rank 0 then merges
    them variant by variant. Images that a sampler repeats to even out the ranks count once.

    Every rank returns `{"<variant>/AP": ..., ...}`, and for each variant rank 0 writes
    `<folder>/<variant>/{metrics.json, categories.csv, detections.parquet}`.

    Args:
        annotations: normalised annotations of the split.
        dataset_info: `dataset.json`, which gives the categories in the order of labels.
        variants: their names.
        mode: `lvis` or `coco`.
        folder: where results go; all ranks must see it.
    """

    default_prefix = "variant"  # keeps mmengine from advising one: the names have theirs

    def __init__(
        self,
        annotations: str,
        dataset_info: str,
        variants: Sequence[str],
        mode: Literal["lvis", "coco"],
        folder: str,
    ) -> None:
        super().__init__()
        self.annotations = Path(annotations)
        self.categories = Prepared.load(Path(dataset_info)).categories
        self.category_ids = np.array([category.id for category in self.categories], dtype=np.int32)
        self.variants = list(variants)
        self.mode = mode
        self.folder = Path(folder)
        self.shards = self.folder / ".shards"
        self._reset()

    def _reset(self) -> None:
        self.seen: set[int] = set()
        self.waiting: list[tuple[np.ndarray, pa.Table]] = []
        self.writers: list[pq.ParquetWriter] = []

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        for sample in data_samples:
            if sample["img_id"] in self.seen:
                continue
            self.seen.add(sample["img_id"])
            found = {
                name: sample["pred_instances"][name].cpu().numpy()
                for name in ("bboxes", "scores", "labels", "variant")
            }
            corners = found["bboxes"].astype(np.float32).reshape(-1, 4)
            table = pa.table(
                [
                    np.full(len(corners), sample["img_id"]),
                    self.category_ids[found["labels"]],
                    found["scores"].astype(np.float32),
                    corners[:, 0],
                    corners[:, 1],
                    corners[:, 2] - corners[:, 0],
                    corners[:, 3] - corners[:, 1],
                ],
                schema=_SCHEMA,
            )
            self.waiting.append((found["variant"], table))
        if sum(len(table) for _, table in self.waiting) >= FLUSH_ROWS:
            self._flush()

    def _shard(self, variant: str, rank: int) -> Path:
        return self.shards / f"{variant}.{rank}.parquet"

    def _flush(self) -> None:
        """Write what waits in memory to this rank's shards."""
        if not self.writers:
            self.shards.mkdir(parents=True, exist_ok=True)
            rank, _ = get_dist_info()
            for name in self.variants:
                self.writers.append(pq.ParquetWriter(self._shard(name, rank), _SCHEMA))
        if self.waiting:
            variant = np.concatenate([index for index, _ in self.waiting])
            table = pa.concat_tables([table for _, table in self.waiting])
            for index, writer in enumerate(self.writers):
                writer.write_table(table.filter(pa.array(variant == index)))
        self.waiting = []

    def evaluate(self, size: int) -> dict[str, float]:
        """Metrics of all variants, the same on every rank; an error of rank 0 is everyone's.

        size: images of the split, which the shards tell by themselves.
        """
        self._flush()
        for writer in self.writers:
            writer.close()
        self._reset()
        barrier()
        rank, ranks = get_dist_info()
        outcome: list[Any] = [None]
        if rank == 0:
            try:
                outcome = [self.compute_metrics(list(range(ranks)))]
            except Exception as error:
                outcome = [error]
        broadcast_object_list(outcome)
        if isinstance(outcome[0], Exception):
            raise outcome[0]
        return outcome[0]

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Metrics from the shards of the ranks in `results`."""
        evaluator = Evaluator(self.annotations, self.categories, self.mode)
        metrics: dict[str, float] = {}
        for name in self.variants:
            table = _merge([pq.read_table(self._shard(name, rank)) for rank in results])
            result = evaluator.evaluate(Detections._from_table(table))
            folder = self.folder / name
            folder.mkdir(parents=True, exist_ok=True)
            _write(folder / "detections.parquet", partial(pq.write_table, table))
            result.save(folder)
            metrics |= {f"{name}/{key}": value for key, value in result.metrics.items()}
        shutil.rmtree(self.shards)
        return metrics


def _merge(shards: list[pa.Table]) -> pa.Table:
    """All ranks' detections, each image's from the first rank that saw it."""
    merged = [shards[0]]
    seen = shards[0]["image_id"].to_numpy()
    for shard in shards[1:]:
        ids = shard["image_id"].to_numpy()
        merged.append(shard.filter(pa.array(~np.isin(ids, seen))))
        seen = np.union1d(seen, ids)
    return pa.concat_tables(merged)


def _write(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` fill a file beside `path`, then put it in place."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    write(part)
    part.replace(path)
