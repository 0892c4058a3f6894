"""Evaluation at the size of LVIS v0.5's validation split, ours from the ranks' shards beside
lvis-api.

The set is drawn from a seed, in the numbers of LVIS v0.5: an image has ten objects or so of three
long-tailed categories and lists ten categories as absent. It gets the 300 detections that LVIS
counts, half of them of categories that it judges there. AP, AP-Fixed
and AP-Pool together also stand beside AP alone. Each side runs in a process of its own and reads
the ground truth itself; ours reads the detections from files, too, while lvis-api is handed
its dicts.
"""

import contextlib
import io
import json
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bacl.errors import RunError
from bacl_platform.bench.measure import Row, Setting, quiet
from bacl_platform.train.memory import resident

if TYPE_CHECKING:
    from bacl.datasets.categories import Category

GROUPS = {"f": 315, "c": 461, "r": 454}  # categories of LVIS v0.5
PART, WHOLE = 250, 5_000
"""Images of the default scale, where lvis-api takes a minute, and of LVIS v0.5's validation split,
where it takes a quarter of an hour."""
RANKS = 2
DETECTIONS = 300
WIDTH, HEIGHT = 640, 480


@dataclass(frozen=True)
class Taken:
    """What one side took: seconds, MiB at its peak beyond its imports, and the AP it found."""

    seconds: float
    memory: float
    ap: float


def measure(setting: Setting, images: int | None = None) -> list[Row]:
    """Time and memory of one evaluation; the limit on time is for the whole size.

    images: how many to draw, in place of what the setting's scale says.
    """
    if find_spec("lvis") is None:
        raise RunError("evaluate: expected lvis-api, which it times: pip install 'bacl[lvis]'")
    images = images or (WHOLE if setting.full else PART)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw_set(folder, images)
        rounds = [
            [apart(side, folder, setting.threads) for side in (ours, alone, theirs)]
            for _ in range(setting.repeat or 1)
        ]
    beside = [[mine, its] for mine, _, its in rounds]
    without = [[mine, ap] for mine, ap, _ in rounds]
    return [
        *compared("evaluate", "lvis-api", beside, images, tolerance=1e-6, limit=0.01),
        *compared("evaluate_all", "AP alone", without, images, tolerance=1e-9, limit=1.6),
    ]


def compared(
    name: str,
    peer: str,
    rounds: list[list[Taken]],
    images: int,
    tolerance: float,
    limit: float,
) -> list[Row]:
    """Rows of time and memory by the medians of rounds, each of our side and the peer's. limit: of
    time, at the whole size.

    Raises:
        RunError: the two found another AP.
    """
    for mine, its in rounds:
        if abs(mine.ap - its.ap) > tolerance:
            raise RunError(f"{name}: expected {peer}'s AP {its.ap:.8f}, got {mine.ap:.8f}")
    time_, memory = (
        [statistics.median(getattr(taken, what) for taken in side) for side in zip(*rounds)]
        for what in ("seconds", "memory")
    )
    size = f"{images * DETECTIONS:,} detections in {images:,} images"
    most = limit if images >= WHOLE else None
    return [
        Row(name, size, time_[0], peer, time_[1], most, "s"),
        Row(f"{name}_memory", "peak", memory[0], peer, memory[1], None, "MiB"),
    ]


def apart(side: Callable[[Path], Taken], folder: Path, threads: int) -> Taken:
    """Run a side in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_run, side, folder, threads).result()


def _run(side: Callable[[Path], Taken], folder: Path, threads: int) -> Taken:
    os.environ["RAYON_NUM_THREADS"] = str(threads)  # hotcoco's; it asks when it first computes
    with quiet():
        return side(folder)


def ours(folder: Path) -> Taken:
    """Our evaluation of the set in a folder: AP, AP-Fixed, AP-Pool and the other metrics."""
    import pandas  # noqa: F401  as pyarrow does for its first array

    from bacl.evaluation import Detections, Evaluator

    categories = read_categories(folder)
    before, start = resident(), time.perf_counter()
    evaluator = Evaluator(folder / "val.json", categories, "lvis")
    result = evaluator.evaluate(Detections.read(*shards(folder)))
    return Taken(time.perf_counter() - start, resident() - before, result.metrics["AP"])


def alone(folder: Path) -> Taken:
    """Our evaluation without all that is no AP."""
    import pandas  # noqa: F401

    from bacl.evaluation import Detections, Evaluator

    categories = read_categories(folder)
    before, start = resident(), time.perf_counter()
    evaluator = Evaluator(folder / "val.json", categories, "lvis")
    ap = float(np.nanmean(evaluator.average_precision(Detections.read(*shards(folder)))))
    return Taken(time.perf_counter() - start, resident() - before, ap)


def read_categories(folder: Path) -> "list[Category]":
    """The categories of a drawn set."""
    from bacl.datasets.categories import Category

    items = json.loads((folder / "categories.json").read_text(encoding="utf-8"))
    return [Category(**item) for item in items]


def theirs(folder: Path) -> Taken:
    """lvis-api's evaluation of the set in a folder."""
    np.float = float  # type: ignore[attr-defined]  # in this process: NumPy 2 has removed it
    from lvis import LVIS, LVISEval, LVISResults

    from bacl.evaluation import Detections

    found = Detections.read(*shards(folder))
    before = resident()
    columns = (found.image, found.label, found.score.astype(float), found.bbox)
    results: list[dict[str, Any]] = [
        {"image_id": image, "category_id": category, "score": score, "bbox": box}
        for image, category, score, box in zip(*(column.tolist() for column in columns))
    ]
    start = time.perf_counter()
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            truth = LVIS(str(folder / "val.json"))
            evaluation = LVISEval(truth, LVISResults(truth, results), "bbox")
            evaluation.run()
    finally:
        logging.disable(logging.NOTSET)
    return Taken(time.perf_counter() - start, resident() - before, evaluation.results["AP"])


def shards(folder: Path) -> list[Path]:
    """The ranks' files of a drawn set."""
    return [folder / f"detections.{rank}.parquet" for rank in range(RANKS)]


def draw_set(folder: Path, images: int) -> None:
    """Write val.json, categories.json and each rank's shard of detections to a folder."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    draw = np.random.default_rng(0)
    groups = [group for group, count in GROUPS.items() for _ in range(count)]
    counts = {"r": 5, "c": 50, "f": 500}
    categories = [
        {"id": n, "name": f"category {n}", "frequency": group}
        | {"image_count": counts[group], "instance_count": counts[group]}
        for n, group in enumerate(groups)
    ]
    chance = 1 / np.arange(10, 10 + len(categories))
    chance /= chance.sum()
    rows: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    found = []
    for image in range(images):
        present = np.unique(draw.choice(len(categories), 1 + draw.poisson(2), p=chance))
        labels = np.repeat(present, draw.geometric(0.3, len(present)))
        absent = np.setdiff1d(draw.integers(len(categories), size=10), present)
        partial = present[draw.random(len(present)) < 0.05]
        boxes = _boxes(draw, len(labels))
        rows.append(
            {"id": image, "width": WIDTH, "height": HEIGHT, "file_name": f"{image}.jpg"}
            | {"neg_category_ids": absent.tolist(), "not_exhaustive_category_ids": partial.tolist()}
        )
        for label, box in zip(labels.tolist(), boxes.tolist()):
            annotations.append(
                {"id": len(annotations) + 1, "image_id": image, "category_id": label}
                | {"bbox": box, "area": box[2] * box[3]}
            )
        judged = np.concatenate([present, absent])
        found.append(_guesses(draw, image, labels, boxes, judged, chance))
    names = ("image", "label", "score", "x", "y", "width", "height")
    for rank, path in enumerate(shards(folder)):
        columns = np.concatenate(found[rank::RANKS]).T
        types = [np.int32, np.int32, *[np.float32] * 5]
        table = pa.table({n: c.astype(t) for n, c, t in zip(names, columns, types)})
        pq.write_table(table, path)
    content = {"images": rows, "annotations": annotations, "categories": categories}
    (folder / "val.json").write_text(json.dumps(content), encoding="utf-8")
    (folder / "categories.json").write_text(json.dumps(categories), encoding="utf-8")


def _boxes(draw: np.random.Generator, count: int) -> NDArray[Any]:
    """Boxes (count, 4) as x, y, width, height, most of them small."""
    sides = np.minimum(draw.lognormal(4, 0.8, (count, 2)), (WIDTH / 2, HEIGHT / 2))
    return np.hstack([draw.random((count, 2)) * ((WIDTH, HEIGHT) - sides), sides])


def _guesses(
    draw: np.random.Generator,
    image: int,
    labels: NDArray[Any],
    boxes: NDArray[Any],
    judged: NDArray[Any],
    chance: NDArray[Any],
) -> NDArray[Any]:
    """Rows (DETECTIONS, 7) of an image.

    Its objects are each found thrice, about where they are; the rest are anywhere, of categories
    that are judged in the image until these make a half, and then of any.
    """
    half = DETECTIONS // 2
    labels, boxes = np.repeat(labels, 3)[:half], np.repeat(boxes, 3, axis=0)[:half]
    right, wrong = len(labels), DETECTIONS - len(labels)
    labels = np.concatenate(
        [labels, draw.choice(judged, half - right), draw.choice(len(chance), half, p=chance)]
    )
    near = boxes + draw.normal(0, 0.1, (right, 4)) * np.tile(boxes[:, 2:], 2)
    placed = np.concatenate([near, _boxes(draw, wrong)])
    placed[:, 2:] = np.maximum(placed[:, 2:], 1)
    score = np.concatenate([draw.beta(2, 2, right), draw.beta(1, 8, wrong)])
    return np.column_stack([np.full(DETECTIONS, image), labels, score, placed])
