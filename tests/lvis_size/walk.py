"""The walk through BACL at LVIS v1's size: `make lvis-size` says what each step takes.

    python tests/lvis_size/walk.py --folder DIR --json figures.json

The annotations have LVIS v1's numbers of images, instances and categories, and each category is in
as many training images as it is there; what the images show is drawn. Each step is a process of its
own, watched with all that it starts. The exit code is 1 where a step failed or passed a limit.

About 15 GB of disk. A folder that is given is kept, and what is in it already is not made again.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = paths = [str(ROOT), str(ROOT / "platform")]

from bacl_platform.bench.drawn import Size, write_annotations, write_photographs  # noqa: E402

COUNTS = tuple(json.loads((HERE / "image_counts.json").read_text(encoding="utf-8")))
TRAIN = Size(100_170, 1_270_141, len(COUNTS), COUNTS, negatives=6)
VAL = Size(
    19_809,
    244_707,
    len(COUNTS),
    tuple(round(count * 19_809 / 100_170) for count in COUNTS),
    negatives=6,
)
FEW = Size(4, 50, len(COUNTS), tuple(int(count > 1900) for count in COUNTS), negatives=6)
"""Images that the run detects in: its evaluation is not what is measured."""
PHOTOGRAPHS = 64
"""Pictures that differ; the others are links to them."""
MOST_MEMORY = 8.0
"""GiB that no step may pass."""
LONGEST = 3600
"""Seconds after which a step is ended."""
LOOK_EVERY = 0.5
"""Seconds between looks at the memory."""

TRAINED = """
name: lvis-size
dataset: {format: lvis, train: train.json, val: few.json, images: images}
detector: {backbone: resnet50}
stages:
  representation:
    kind: representation
    recipe: &recipe
      schedule: {iterations: 4, batch: 2, lr: 0.0001, warmup: 0}
      scales: [[667, 400]]
      test_scale: [667, 400]
  classifier:
    kind: classifier
    after: representation
    variants:
      bacl: {method: bacl}
      fcbl: {method: fcbl}
      bce: {method: bce}
      softmax: {method: softmax}
    recipe: *recipe
baseline: softmax
"""
JUDGED = """
name: lvis-size-judged
base: trained.yaml
dataset: {val: val.json}
"""
SWEPT = """
name: lvis-size-swept
base: judged.yaml
variant: bacl
space:
  variant.hallucination.beta: [0.9, 0.92, 0.94, 0.96, 0.98]
  variant.indicator: [confusion_matrix, mean_score, image_frequency, instance_number]
"""


@dataclass(frozen=True)
class Step:
    """A step: what it is called, what runs, and the most seconds and GiB that it may take."""

    name: str
    command: list[str]
    seconds: float | None = None
    memory: float = MOST_MEMORY


@dataclass
class Taken:
    """What a step took: seconds, GiB of all its processes together at their peak, and what was
    wrong with it."""

    name: str
    seconds: float
    memory: float
    trouble: str = ""


def steps(store: Path) -> list[Step]:
    """The steps after the drawing, in their order."""
    bacl = [sys.executable, "-m", "bacl_platform"]
    entries = [sys.executable, str(HERE / "entries.py")]
    stored = ["--store", str(store)]
    return [
        Step("prepare the dataset, and plan", [*bacl, "plan", "trained.yaml", *stored]),
        Step("plan again", [*bacl, "plan", "trained.yaml", *stored]),
        Step("run both stages for 4 steps each", [*bacl, "run", "trained.yaml", *stored]),
        Step("prepare with the whole validation split", [*bacl, "plan", "judged.yaml", *stored]),
        Step("evaluate 5 variants", [*entries, "judged.yaml", *stored]),
        Step("evaluate 20 variants", [*entries, "swept.yaml", *stored]),
        Step("send 5 variants to MLflow", [*bacl, "run", "judged.yaml", *stored]),
        Step("report of 5 variants", [*bacl, "report", "judged.yaml", *stored], 300, 6),
        Step("compare", [*bacl, "compare", "judged.yaml", "softmax", "bacl", *stored], 300),
        Step("send 20 trials to MLflow", [*bacl, "sweep", "swept.yaml", *stored]),
        Step("report of the sweep", [*bacl, "report", "swept.yaml", *stored]),
        Step("verify the store", [*bacl, "store", "verify", *stored]),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, help="where to work; else a temporary one")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--only", default="", help="steps whose names have this in them")
    arguments = parser.parse_args()
    console = Console()
    with _folder(arguments.folder) as folder:
        taken = walk(folder, arguments.only, console)
    console.print(table(taken))
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(one) for one in taken], indent=1) + "\n")
    sys.exit(any(one.trouble for one in taken))


@contextmanager
def _folder(given: Path | None) -> Iterator[Path]:
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given.resolve()
        return
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def walk(folder: Path, only: str, console: Console) -> list[Taken]:
    """Draw what lacks in a folder, and take the steps; one that fails ends the walk."""
    began = time.perf_counter()
    draw(folder)
    console.print(f"drawn in {time.perf_counter() - began:.0f} s")
    taken = []
    for step in steps(folder / "store"):
        if only not in step.name:
            continue
        one = take(step, folder)
        console.print(f"{step.name}: {one.seconds:.0f} s, {one.memory:.1f} GiB {one.trouble}")
        taken.append(one)
        if one.trouble.startswith("ended"):
            break
    return taken


def draw(folder: Path) -> None:
    """Write the annotations, the images and the files of the experiments."""
    for name, text in (("trained", TRAINED), ("judged", JUDGED), ("swept", SWEPT)):
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    if (folder / "drawn").exists():
        return
    names = write_annotations(folder / "train.json", TRAIN)
    names += write_annotations(folder / "val.json", VAL, first=1 + TRAIN.images)
    names += write_annotations(folder / "few.json", FEW, first=1 + TRAIN.images + VAL.images)
    write_photographs(folder / "images", names[:PHOTOGRAPHS])
    for number, name in enumerate(names[PHOTOGRAPHS:]):
        (folder / "images" / name).hardlink_to(folder / "images" / names[number % PHOTOGRAPHS])
    (folder / "drawn").touch()


def take(step: Step, folder: Path) -> Taken:
    """Run a step and watch its processes."""
    variables = {
        "PYTHONPATH": os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")]),
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
    }
    log = folder / f"{step.name.replace(' ', '_')}.log"
    began = time.perf_counter()
    with log.open("w") as file:
        process = subprocess.Popen(
            step.command,
            cwd=folder,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, **variables},
        )
        try:
            with peak_memory(process.pid) as peak:
                code = process.wait(LONGEST)
        finally:
            process.terminate()  # on which a driver ends its Ray
    taken = Taken(step.name, time.perf_counter() - began, peak())
    if code:
        end = "\n".join(log.read_text().splitlines()[-15:])
        taken.trouble = f"ended with exit code {code}:\n{end}"
    elif taken.memory > step.memory:
        taken.trouble = f"more than {step.memory:g} GiB"
    elif step.seconds and taken.seconds > step.seconds:
        taken.trouble = f"more than {step.seconds:g} s"
    return taken


@contextmanager
def peak_memory(pid: int) -> Iterator[Callable[[], float]]:
    """Within, watch a process and all that it starts; gives their peak in GiB.

    Memory that processes share counts once.
    """
    highest, over = 0.0, threading.Event()

    def watch() -> None:
        nonlocal highest
        while not over.wait(LOOK_EVERY):
            highest = max(highest, _held(pid))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield lambda: highest / 2**30
    finally:
        over.set()
        thread.join()


def _held(pid: int) -> int:
    held = 0
    try:
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            try:
                held += process.memory_full_info().pss
            except psutil.Error:
                continue
    except psutil.Error:
        pass
    return held


def table(taken: list[Taken]) -> Table:
    """The figures as a table."""
    shown = Table("step", "seconds", "GiB", "")
    for one in taken:
        shown.add_row(one.name, f"{one.seconds:.1f}", f"{one.memory:.2f}", one.trouble)
    return shown


if __name__ == "__main__":
    main()
