"""A results file at the size of LVIS v0.5's validation split, read and evaluated by `bacl evaluate`
beside hotcoco alone.

The set is that of `evaluate`, its detections in one JSON list of 1.5 million items at full scale.
hotcoco reads both files and evaluates as its own documentation says; ours also checks what the file
holds. Each side runs in a process of its own; imports do not count.
"""

import contextlib
import io
import json
import tempfile
import time
from pathlib import Path

import numpy as np

from bacl_platform.bench.measure import Row, Setting
from bacl_platform.bench.rows.evaluate import (
    PART,
    WHOLE,
    Taken,
    apart,
    compared,
    draw_set,
    read_categories,
    shards,
)
from bacl_platform.train.memory import resident

_ROUNDS = 5
_RESULTS = "results.json"


def measure(setting: Setting, images: int | None = None) -> list[Row]:
    """Time and memory of one evaluation; the limit on time is for the whole size.

    images: how many to draw, in place of what the setting's scale says.
    """
    images = images or (WHOLE if setting.full else PART)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw_set(folder, images)
        write_results(folder)
        rounds = [
            [apart(side, folder, setting.threads) for side in (ours, theirs)]
            for _ in range(setting.repeat or _ROUNDS)
        ]
    return compared("results_file", "hotcoco", rounds, images, tolerance=1e-9, limit=1.1)


def write_results(folder: Path) -> None:
    """Write the detections of a drawn set as detectors do: pixels with two digits, whole scores."""
    from bacl.evaluation import Detections

    found = Detections.read(*shards(folder))
    columns = (found.image, found.label, np.round(found.bbox.astype(float), 2), found.score)
    names = ("image_id", "category_id", "bbox", "score")
    rows = zip(*(column.tolist() for column in columns))
    with (folder / _RESULTS).open("w", encoding="utf-8") as file:
        json.dump([dict(zip(names, row)) for row in rows], file)


def ours(folder: Path) -> Taken:
    """What `bacl evaluate` does with the set in a folder, without its report."""
    from bacl.evaluation import Evaluator
    from bacl.results_files import Split, read_results

    categories = read_categories(folder)
    before, start = resident(), time.perf_counter()
    evaluator = Evaluator(folder / "val.json", categories, "lvis")
    split = Split(evaluator.ground_truth.get_img_ids(), [one.id for one in categories])
    result = evaluator.evaluate(read_results(folder / _RESULTS, split))
    return Taken(time.perf_counter() - start, resident() - before, result.metrics["AP"])


def theirs(folder: Path) -> Taken:
    """hotcoco's own reading and evaluation of the set in a folder."""
    import hotcoco

    before, start = resident(), time.perf_counter()
    truth = hotcoco.COCO(str(folder / "val.json"))
    run = hotcoco.COCOeval(truth, truth.load_res(str(folder / _RESULTS)), "bbox", lvis_style=True)
    run.evaluate()
    run.accumulate()
    with contextlib.redirect_stdout(io.StringIO()):
        run.summarize()
    seconds, memory = time.perf_counter() - start, resident() - before
    assert run.eval is not None
    precision = np.asarray(run.eval["precision"])[:, :, :, 0, -1]  # (T, R, C)
    return Taken(seconds, memory, float(precision[precision > -1].mean()))
