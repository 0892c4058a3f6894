"""`bacl doctor`: finds out whether the main job can run here, by using every part that it uses.

Parts that could hang or crash (Ray, MLflow, the evaluation's native code) run in a process of their
own, within a time limit. Nothing heavy is imported before its part is probed.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from io import StringIO
from pathlib import Path
from typing import Literal

from rich.table import Table
from rich.text import Text

from bacl_platform.console import Console
from bacl_platform.volume import Volume, volume

State = Literal["ok", "optional, missing", "failed"]

SECONDS = 120.0  # for each process; a cold start of Ray on a busy machine takes half a minute
GIB = 2**30
LEAST_FREE = 1 * GIB  # the embedded experiment with its checkpoints, several times over
COLOURS: dict[State, str] = {"ok": "green", "optional, missing": "yellow", "failed": "red"}
REINSTALL = "install the tested set again: pip install -c constraints.txt -e ."


@dataclass(frozen=True)
class Part:
    """Something that jobs use. `probe` returns what it found, and raises where the part is broken.

    `advice` says what to do then; for an optional part, also what it is for.
    """

    name: str
    probe: Callable[[], str]
    advice: str
    required: bool = True


@dataclass(frozen=True)
class Check:
    """What became of one part. `required`: the main job cannot run without it."""

    name: str
    state: State
    detail: str
    required: bool


def run(store: str | Path) -> int:
    """Check every part, print a table of them, and return the exit code.

    Args:
        store: the folder or bucket that finished jobs would go to; a folder need not exist.

    Returns:
        0, or 1 when the main job could not run.
    """
    console = Console(stderr=True, quiet=volume() is Volume.QUIET)
    with console.status("checking") as status:
        checks = check(store, announce=lambda name: status.update(f"checking {name}"))
    return report(checks)


def check(store: str | Path, announce: Callable[[str], None] = lambda name: None) -> list[Check]:
    """Probe every part; `announce` is called with the name of each before it is probed."""
    checks = []
    for part in parts(store):
        announce(part.name)
        checks.append(_probe(part))
    return checks


def report(checks: list[Check]) -> int:
    """Print the checks as a table and say whether the main job can run; 0 if so, else 1."""
    table = Table("part", "state", "found")
    for each in checks:
        # Text, not markup: what was found may hold square brackets.
        table.add_row(each.name, Text(each.state, COLOURS[each.state]), Text(each.detail))
    console = Console()
    console.print(table)
    broken = [each.name for each in checks if each.state == "failed" and each.required]
    if broken:
        console.print(f"The main job cannot run here: {', '.join(broken)} failed.")
        return 1
    console.print("The main job can run here.")
    return 0


def parts(store: str | Path) -> list[Part]:
    """All parts, cheap ones first."""
    return [
        Part("python", _python, "use Python 3.10 to 3.13"),
        _package("torch"),
        _package("torchvision"),
        _package("mmdet", "onedl-mmdetection"),
        _package("mmcv", "onedl-mmcv"),
        _package("mmengine", "onedl-mmengine"),
        _package("ray"),
        _package("mlflow"),
        _package("hotcoco"),
        Part("lvis", _lvis, "tests hold the evaluation against it: pip install lvis", False),
        Part("optuna", _optuna, "sweeps search with it: pip install optuna", False),
        Part("store", lambda: _store(store), "choose another folder with --store or BACL_STORE"),
        Part(
            "opencv",
            _opencv,
            "where libGL is missing, put the build that needs none on top: pip install "
            "--force-reinstall --no-deps 'opencv-contrib-python-headless<4.13'",
        ),
        Part("operators", lambda: _operators("cpu"), REINSTALL),
        Part(
            "other operators",
            _compiled_operators,
            "detectors beyond these use them (deformable convolution and the like)",
            False,
        ),
        Part("detectors", _detectors, REINSTALL),
        Part(
            "gpu",
            _gpu,
            "match the driver with torch's CUDA, or hide the GPU: CUDA_VISIBLE_DEVICES=",
        ),
        Part("evaluation", _evaluation, REINSTALL),
        Part("tracking", _tracking, REINSTALL),
        Part(
            "ray cluster",
            _ray,
            "see /tmp/ray/session_latest/logs, and `ray stop` what is left over",
        ),
    ]


def _probe(part: Part) -> Check:
    try:
        with redirect_stdout(StringIO()):  # mmdet prints while it is imported
            return Check(part.name, "ok", part.probe(), part.required)
    # Whatever a broken part raises is the finding.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, ModuleNotFoundError) and not part.required:
            return Check(part.name, "optional, missing", f"{part.advice}; {reason}", part.required)
        return Check(part.name, "failed", f"{reason}. To do: {part.advice}", part.required)


def _package(name: str, distribution: str | None = None) -> Part:
    """A package that only has to be installed; other parts use it."""
    distribution = distribution or name

    def probe() -> str:
        try:
            return version(distribution)
        except PackageNotFoundError:
            raise RuntimeError(f"{distribution} is not installed") from None

    return Part(name, probe, REINSTALL)


def _python() -> str:
    found = ".".join(map(str, sys.version_info[:3]))
    if not (3, 10) <= sys.version_info[:2] <= (3, 13):
        raise RuntimeError(f"Python is {found}")
    return found


def _lvis() -> str:
    from lvis import LVIS  # noqa: F401

    return version("lvis")


def _optuna() -> str:
    import optuna

    return optuna.__version__


def _store(store: str | Path) -> str:
    from bacl_platform.store.store import Store

    opened = Store(store)
    if opened.bucket is not None:
        probe = f".probe-{uuid.uuid4().hex}"
        opened.bucket.write(probe, "")
        opened.bucket.remove([probe])
        return f"{opened.url}: writable, cache in {opened.root}"
    folder = opened.root
    while not folder.exists():
        folder = folder.parent
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(bytes(4096))
    free = shutil.disk_usage(folder).free
    if free < LEAST_FREE:
        raise RuntimeError(f"{folder}: {free / GIB:.1f} GiB free, needed {LEAST_FREE / GIB:.0f}")
    return f"{opened.root}: writable, {free / GIB:.0f} GiB free"


def _opencv() -> str:
    import cv2
    import numpy as np

    from bacl.datasets.decoding import decode

    image = np.zeros((8, 8, 3), np.uint8)
    if not np.array_equal(decode(cv2.imencode(".png", image)[1].tobytes()), image):
        raise RuntimeError("OpenCV does not read the image that it wrote")
    return cv2.__version__


def _operators(device: str) -> str:
    from bacl.detector.operators import install

    backing = install()
    import torch
    from mmcv.ops import RoIAlign, nms

    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30]], device=device)
    kept = nms(boxes, torch.tensor([0.9, 0.8, 0.7], device=device), 0.5)[1].tolist()
    if kept != [0, 2]:
        raise RuntimeError(f"NMS kept boxes {kept} of three, expected [0, 2]")
    ramp = torch.arange(8.0, device=device).expand(1, 1, 8, 8).contiguous()
    region = torch.tensor([[0.0, 2, 2, 6, 6]], device=device)
    pooled = RoIAlign(1, 1.0, 0)(ramp, region).item()
    if abs(pooled - 3.5) > 1e-5:  # the ramp at the region's centre, whose cell 0 is centred at 0.5
        raise RuntimeError(f"RoIAlign pooled {pooled}, expected 3.5")
    return f"NMS and RoIAlign work, by {backing}"


def _compiled_operators() -> str:
    from bacl.detector.operators import HOW_TO_GET, install

    if install() != "mmcv":
        raise ModuleNotFoundError(f"to get them, {HOW_TO_GET}")
    return "compiled mmcv"


def _detectors() -> str:
    from mmdet.registry import MODELS

    import bacl.register  # noqa: F401

    return f"{len(MODELS)} model parts registered with mmdet"


def _gpu() -> str:
    import torch

    if not torch.cuda.is_available():
        return "none: runs on CPU"
    names = []
    for index in range(torch.cuda.device_count()):
        matrix = torch.eye(64, device=f"cuda:{index}")
        if (matrix @ matrix).trace().item() != 64:
            raise RuntimeError(f"cuda:{index}: a matrix product came out wrong")
        _operators(f"cuda:{index}")
        names.append(torch.cuda.get_device_name(index))
    return f"{len(names)}: {', '.join(sorted(set(names)))}"


def _evaluation() -> str:
    found = _in_process(
        """
from hotcoco import COCO, COCOeval
box = {"image_id": 1, "category_id": 1, "area": 64, "iscrowd": 0}
truth = COCO({
    "images": [{"id": 1, "width": 20, "height": 20,
                "neg_category_ids": [], "not_exhaustive_category_ids": []}],
    "categories": [{"id": 1, "name": "cup", "frequency": "r",
                    "image_count": 1, "instance_count": 2}],
    "annotations": [{"id": 1, "bbox": [0, 0, 8, 8], **box},
                    {"id": 2, "bbox": [10, 10, 8, 8], **box}],
})
found = truth.load_res(
    [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 8, 8], "score": 0.9}])
evaluation = COCOeval(truth, found, "bbox", lvis_style=True)
evaluation.run()
print(evaluation.get_results()["AP"])
"""
    )
    # One of two boxes found: precision 1 at 51 of the 101 recall levels.
    if abs(float(found) - 51 / 101) > 1e-9:
        raise RuntimeError(
            f"hotcoco gives AP {found} for one of two boxes, expected {51 / 101:.4f}"
        )
    return "hotcoco: AP of a two-box example is right"


def _tracking() -> str:
    from bacl_platform.tracking.tracking import sqlite_uri

    with tempfile.TemporaryDirectory() as folder:
        found = _in_process(
            f"""
from pathlib import Path
from mlflow import MlflowClient
client = MlflowClient(tracking_uri={sqlite_uri(Path(folder, "mlflow.db"))!r})
experiment = client.create_experiment("doctor", Path({folder!r}, "artifacts").as_uri())
run = client.create_run(experiment)
client.log_metric(run.info.run_id, "AP", 0.5)
client.set_terminated(run.info.run_id)
print(client.get_run(run.info.run_id).data.metrics["AP"])
"""
        )
    if found != "0.5":
        raise RuntimeError(f"MLflow read back {found!r}, expected '0.5'")
    return "MLflow: a run written to SQLite and read back"


def _ray() -> str:
    found = _in_process(
        """
import ray
ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
@ray.remote
def answer():
    return 42
try:
    print(ray.get(answer.remote()))
finally:
    ray.shutdown()
"""
    )
    if found != "42":
        raise RuntimeError(f"a Ray task returned {found!r}, expected '42'")
    return "a local Ray ran a task"


def _in_process(script: str) -> str:
    """Run a script in a Python of its own; returns the last line it printed.

    Raises:
        RuntimeError: it failed, with the last line of its error; or it took longer than `SECONDS`.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        encoding="utf-8",
    )
    try:
        output, errors = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"no answer within {SECONDS:.0f} s") from None
    finally:
        _end(process)
    if process.returncode != 0:
        last = errors.strip().splitlines()[-1:] or [f"ended with code {process.returncode}"]
        raise RuntimeError(last[0])
    return output.strip().splitlines()[-1]


def _end(process: "subprocess.Popen[str]") -> None:
    """End a process that still runs, and what it started, also when Ctrl-C was pressed."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
