"""Evaluation of every variant of a bank from one pass over the images."""

import math
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from mmengine.dist import broadcast_object_list, get_dist_info
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS
from numpy.typing import NDArray

from bacl.datasets.prepared import Prepared
from bacl.evaluation.beyond import Beyond, merged
from bacl.evaluation.detections import BOXES, MASKS, Detections, read_shards, write_whole
from bacl.evaluation.evaluator import Evaluator
from bacl.evaluation.fixed import BEST, Unlimited
from bacl.exchange import Attempts, collect

FLUSH_ROWS = 200_000
"""Number of detections that a rank holds in memory before it writes them to its shards."""


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

    Where the detector hands on what it finds beyond its limit per image (`bacl.detector.unlimited`
    makes it do so), `beyond` takes it, and AP-Fixed counts it.

    Every rank returns `{"<variant>/AP": ..., ...}`, without metrics that are NaN. For each variant
    rank 0 writes `<folder>/<variant>/{metrics.json, categories.csv, detections.parquet}` and, where
    there is something to know of what lies beyond the limit, `beyond.parquet`.

    Args:
        annotations: path of the split's normalised annotations.
        dataset_info: `dataset.json`, which gives the categories in the order of labels.
        variants: names of the variants.
        mode: `lvis` or `coco`.
        folder: folder for results, at the same place on every rank; a shared one spares the ranks
            sending their files.
        masks: whether the detector's masks are evaluated as well.
        best: detections of a category that AP-Fixed and AP-Pool count.
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
        best: int = BEST,
    ) -> None:
        super().__init__()
        self.annotations = Path(annotations)
        prepared = Prepared.load(Path(dataset_info))
        self.categories, self.groups = prepared.categories, prepared.groups
        self.variants = list(variants)
        self.mode = mode
        self.masks = masks
        self.schema = MASKS if masks else BOXES
        self.folder = Path(folder)
        self.shards = self.folder / ".shards"
        self.best = best
        self.beyond = Beyond(len(self.categories), self._judged, self._shard_beyond, best)
        self._reset()

    def _reset(self) -> None:
        self.seen: set[int] = set()
        self.waiting: list[tuple[NDArray[Any], pa.Table]] = []
        self.writers: list[pq.ParquetWriter] = []
        self.beyond.reset()

    def _judged(self) -> NDArray[Any] | None:
        return None if self.mode == "coco" else self._evaluator().judged

    def _evaluator(self) -> Evaluator:
        return Evaluator(self.annotations, self.categories, self.mode, self.groups, self.best)

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
            if self.schema is MASKS:
                columns.append([mask["counts"] for mask in instances["masks"]])
            self.waiting.append((found["variant"], pa.table(columns, schema=self.schema)))
        if sum(len(table) for _, table in self.waiting) >= FLUSH_ROWS:
            self._flush()

    def _shard(self, variant: str, rank: int) -> Path:
        return self.shards / f"{variant}.{rank}.parquet"

    def _beyond(self, variant: str, rank: int) -> Path:
        return self.shards / f"{variant}.{rank}.beyond.parquet"

    def _shard_beyond(self, variant: int) -> Path:
        return self._beyond(self.variants[variant], get_dist_info()[0])

    def _files(self, rank: int) -> list[Path]:
        """The shards of a rank."""
        files = [self._shard(name, rank) for name in self.variants]
        if self.beyond.used:
            files += [self._beyond(name, rank) for name in self.variants]
        return files

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
            if self.beyond.used:
                self.beyond.close(len(self.variants))
        self._reset()
        attempts.agree()
        collect(self.shards, [path.name for path in self._files(rank)])
        outcome: list[Any] = [None]
        if rank == 0:
            try:
                outcome = [self.compute_metrics(list(range(ranks)))]
            except Exception as error:
                outcome = [error]
        broadcast_object_list(outcome)
        if isinstance(outcome[0], Exception):
            raise outcome[0]
        for path in self._files(rank):  # which rank 0 has removed where it shares the folder
            path.unlink(missing_ok=True)
        return outcome[0]

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        """Metrics from the shards of the ranks in `results`."""
        evaluator = self._evaluator()
        metrics: dict[str, float] = {}
        for name in self.variants:
            tables = read_shards([self._shard(name, rank) for rank in results])
            table = pa.concat_tables(tables)
            folder = self.folder / name
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(folder / "detections.parquet", partial(pq.write_table, table))
            unlimited: Unlimited | None = None
            if self.beyond.used:
                shards = [self._beyond(name, rank) for rank in results]
                unlimited, cuts = merged(tables, shards, len(self.categories), self.best)
                unlimited.save(folder / "beyond.parquet", cuts)
            result = evaluator.evaluate(Detections.from_table(table), unlimited)
            result.save(folder)
            metrics |= {
                f"{name}/{key}": value
                for key, value in result.metrics.items()
                if not math.isnan(value)
            }
        shutil.rmtree(self.shards)
        return metrics
