"""What is right on a device: its tests, and one chain of the platform's jobs beside the CPU's.

As a program it trains the chain, for `right` to start on one device and on the other at once.
"""

import argparse
import json
import os
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
TESTS = ("tests/gpu", "tests/bacl")
"""Paths with tests marked `gpu`. Those of the platform need what a bare CUDA machine lacks."""
SMALL = (
    "tests/gpu/test_right.py::test_training_and_test_are_what_they_are_on_the_cpu[everything]",
    "tests/gpu/test_right.py::test_channels_last_changes_nothing",
    "tests/gpu/test_right.py::test_lower_precision_trains_and_stays_finite",
    "tests/gpu/test_right.py::test_bank_equals_alone[by_confusion_matrix]",
    "tests/gpu/test_right.py::test_resumed_equals_undisturbed",
    "tests/gpu/test_right.py::test_replayed_stage_is_what_it_is_on_the_cpu",
    "tests/gpu/test_right.py::test_trunk_in_bfloat16_hands_on_nearly_what_it_does_in_float32",
    "tests/gpu/test_right.py::test_every_export_predicts_as_its_bank_does",
    "tests/bacl/detector/test_operators.py",
    "tests/bacl/detector/test_postprocess.py",
)
"""One of each kind."""
SECONDS = {"tests": 100, "chain": 120}
"""After which a part is ended, and told to have been."""
METRICS = ("AP", "AP_r", "AP_c", "AP_f")

EXPERIMENT = """
name: right
dataset: {{format: embedded, size: {size}}}
detector:
  backbone: tiny
  neck_channels: 48
  fc_channels: 128
  anchor_scale: 6
  rpn_samples: 128
  roi_samples: 64
  match_low_quality: false
  test_proposals: 200
  max_detections: 30
stages:
  representation:
    kind: representation
    recipe: &recipe
      schedule: {{iterations: {features}, batch: {batch}, lr: 0.01, warmup: {warmup}}}
      scales: [[128, 128]]
      test_scale: [128, 128]
      proposals: 200
      proposals_before_nms: 200
      loader_workers: 0
    resources: &resources {{cpus: {cpus}, gpus: {gpus}}}
  classifier:
    kind: classifier
    after: representation
    variants:
      bacl: {{method: bacl}}
      fcbl: {{method: fcbl}}
      bce: {{method: bce}}
      softmax: {{method: softmax}}
    recipe:
      <<: *recipe
      schedule: {{iterations: {heads}, batch: {batch}, lr: 0.01, warmup: {warmup}}}
    resources: *resources
baseline: softmax
"""
STEPS = {"whole": (150, 100, 16), "small": (6, 4, 4)}
"""Steps of stages 1 and 2, and images in each."""


def right(device: str, small: bool, folder: Path) -> dict[str, Any]:
    """What the tests marked `gpu` say on a device, and the tables of the chain of jobs.

    device: `cuda` or `cpu`. small: some of the tests, and a few steps. folder: where it may write.
    Everything in the result is plain: `tests` is what `run_tests` returns, `chain` has for the
    device and, beside it, for `cpu` what `trained` does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    chains = {place: _started(place, small, folder) for place in dict.fromkeys((device, "cpu"))}
    try:
        tests = run_tests(SMALL if small else TESTS, device, folder, SECONDS["tests"])
    finally:
        ended = {place: _ended(process) for place, process in chains.items()}
    return {"tests": tests, "chain": {place: _read(place, folder, ended[place]) for place in ended}}


def environment(device: str) -> dict[str, str]:
    """This process's, in which the checkout is imported and the device is there."""
    paths = [str(ROOT), str(ROOT / "platform"), os.environ.get("PYTHONPATH", "")]
    own = {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "BACL_DEVICE": device}
    return {**os.environ, **own}


def run_tests(paths, device: str, folder: Path, seconds: float) -> dict[str, Any]:
    """Runs the tests marked `gpu` in these paths of the checkout; what pytest prints is shown.

    Returns counts (`passed`, `failed`, `skipped`), `seconds`, `failures` (the name and the first
    line of the error of each test that failed), the reasons of `skips`, and `error`: a sentence
    where pytest itself did not come to an end or ran nothing, else None.
    """
    written = folder / "tests.xml"
    written.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider"]
    command += ["--no-header", "--tb=short", f"--junitxml={written}", *map(str, paths)]
    began, error = time.perf_counter(), None
    ended = f"the tests were ended after {seconds:g} seconds"
    process = subprocess.Popen(command, cwd=ROOT, env=environment(device))
    try:
        code = process.wait(timeout=seconds)
        if code not in (0, 1):
            error = f"pytest ended with code {code}, expected 0 or 1"
    except subprocess.TimeoutExpired:
        error = ended
    finally:
        process.kill()
        process.wait()
    found = _of_junit(written) if written.exists() else _of_junit(None)
    if not found["passed"] + found["failed"] + found["skipped"] and error != ended:
        error = f"no test ran: pytest ended with code {process.returncode}"
    return {**found, "seconds": round(time.perf_counter() - began, 1), "error": error}


def _of_junit(path: Path | None) -> dict[str, Any]:
    cases = [] if path is None else list(ElementTree.parse(path).iter("testcase"))
    failures, skips = [], set()
    for case in cases:
        for kind in ("failure", "error"):
            for found in case.findall(kind):
                lines = (found.get("message") or found.text or "").strip().splitlines()
                name = f"{case.get('classname')}::{case.get('name')}"
                failures.append({"test": name, "error": lines[0] if lines else ""})
        skips |= {found.get("message") or "" for found in case.findall("skipped")}
    failed = {failure["test"] for failure in failures}
    skipped = sum(case.find("skipped") is not None for case in cases)
    return {
        "passed": len(cases) - len(failed) - skipped,
        "failed": len(failed),
        "skipped": skipped,
        "failures": failures,
        "skips": sorted(skips),
    }


def _started(device: str, small: bool, folder: Path) -> subprocess.Popen:
    variables = environment(device)
    if device == "cpu":
        # mmengine moves a model to CUDA wherever there is any, also for a job without GPUs: in a
        # run, Ray hides them from such a job's workers in the same way
        variables["CUDA_VISIBLE_DEVICES"] = ""
    command = [sys.executable, __file__, device, str(folder / device), *["--small"] * small]
    log = (folder / f"{device}.log").open("w", encoding="utf-8")
    with log:
        return subprocess.Popen(
            command, cwd=folder, env=variables, stdout=log, stderr=subprocess.STDOUT
        )


def _ended(process: subprocess.Popen) -> str | None:
    """How a chain ended, where it is not well."""
    try:
        code = process.wait(timeout=SECONDS["chain"])
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return f"the jobs were ended after {SECONDS['chain']} seconds more than the tests took"
    return f"the jobs ended with code {code}" if code else None


def _read(device: str, folder: Path, error: str | None) -> dict[str, Any]:
    if error is None:
        return json.loads((folder / device / "chain.json").read_text(encoding="utf-8"))
    lines = (folder / f"{device}.log").read_text(encoding="utf-8").strip().splitlines()
    error = f"{error}: {lines[-1]}" if lines else error
    return {"table": {}, "seconds": {}, "device": device, "error": error}


def trained(device: str, small: bool, folder: Path) -> dict[str, Any]:
    """Trains stage 1 and a bank on the embedded set, as a Ray worker trains them, in this process.

    Returns `table` (AP and AP of the groups in percent, by variant, None where no category is in
    the group), `seconds` by job, `device` (where the models were) and `error`, a sentence or None.
    """
    import torch
    from mmengine.device import get_device

    import bacl.register  # noqa: F401  before anything imports mmdet.models
    from bacl.datasets.prepare import prepare
    from bacl_platform.analysis import results
    from bacl_platform.plan.planner import make_plan
    from bacl_platform.spec.load import load
    from bacl_platform.store.store import Store
    from bacl_platform.train import worker

    if get_device() != torch.device(device).type:
        error = f"expected mmengine to train on {device}, it would train on {get_device()}"
        return {"table": {}, "seconds": {}, "device": get_device(), "error": error}
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    folder.mkdir(parents=True, exist_ok=True)
    features, heads, batch = STEPS["small" if small else "whole"]
    path, store = folder / "experiment.yaml", Store(folder / "store")
    path.write_text(
        EXPERIMENT.format(
            size="small",
            features=features,
            heads=heads,
            batch=batch,
            warmup=min(features, heads) // 2,
            # the tests run beside it
            cpus=max(1, min(4, (os.cpu_count() or 1) // 2)),
            gpus=0 if device == "cpu" else 1,
        ),
        encoding="utf-8",
    )
    loaded = load(path)
    plan = make_plan(loaded, prepare(loaded.dataset, store.datasets), store)
    seconds = {}
    for job in plan.missing(store):
        began = time.perf_counter()
        if failure := worker.train(job, store, lambda *_: None, lambda _: None):
            return {"table": {}, "seconds": seconds, "device": device, "error": failure}
        seconds[job.name] = round(time.perf_counter() - began, 1)
    table = {
        result.variant: {
            name: None if (value := result.metrics[name]) is None else round(100 * value, 2)
            for name in METRICS
        }
        for result in results.collect(plan, store, "right").results
    }
    return {"table": table, "seconds": seconds, "device": device, "error": None}


def main() -> None:
    """Train the chain and write `chain.json` in its folder."""
    parse = argparse.ArgumentParser(description=main.__doc__)
    parse.add_argument("device", choices=("cuda", "cpu"))
    parse.add_argument("folder", type=Path)
    parse.add_argument("--small", action="store_true", help="a few steps")
    asked = parse.parse_args()
    result = trained(asked.device, asked.small, asked.folder)
    (asked.folder / "chain.json").write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
