"""`bacl run` of the soak's experiment, as a user starts it, and what can be seen of it."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cluster import kill

from bacl_platform.api.experiment import Experiment
from bacl_platform.plan.job import Job
from bacl_platform.store.names import SCALARS
from bacl_platform.store.store import Store

STEPS, CHECKPOINT_EVERY = 200, 20
"""Of stage 2, which the faults hit."""

EXPERIMENT = f"""
name: soak
dataset: {{format: embedded, size: small}}
detector:
  backbone: tiny
  neck_channels: 16
  fc_channels: 32
  rpn_samples: 32
  roi_samples: 32
  test_proposals: 50
  score_threshold: 0.01
  max_detections: 20
stages:
  features:
    kind: representation
    recipe: &recipe
      schedule: {{iterations: 20, batch: 4, lr: 0.02, warmup: 4, milestones: [15]}}
      scales: [[96, 96]]
      test_scale: [96, 96]
      proposals: 50
      checkpoint_every: {CHECKPOINT_EVERY}
      loader_workers: 0
  heads:
    kind: classifier
    after: features
    variants:
      bacl: {{method: bacl, hallucination: {{categories: 4}}}}
      softmax: {{method: softmax}}
    recipe:
      <<: *recipe
      schedule: {{iterations: {STEPS}, batch: 4, lr: 0.02, warmup: 4, milestones: [150]}}
baseline: softmax
"""


class Hangs(Exception):
    """What was waited for did not come."""


def wait_for(what: str, true: Callable[[], object], seconds: float) -> None:
    """Wait until something is true; raises Hangs with its name after so many seconds."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise Hangs(f"{what}: not within {seconds:.0f} s")
        time.sleep(0.05)


@dataclass
class Place:
    """Where a run happens."""

    folder: Path
    """Of this run alone."""
    workers: int = 1
    address: str | None = None
    store: str = ""
    """What `--store` takes; without it, a folder of `folder`."""
    environment: dict[str, str] = field(default_factory=dict)
    drivers: list["Driver"] = field(default_factory=list)
    """All that ran here."""
    tracking: str = ""
    """The MLflow store; without it, what `bacl run` makes in its own."""
    entry: Callable[[str], Path] = field(init=False)
    """The entry of a key, as a folder of this machine."""

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.file = self.folder / "soak.yaml"
        self.file.write_text(EXPERIMENT)
        self.store = self.store or str(self.folder / "store")
        self.tracking = self.tracking or f"sqlite:///{self.store}/mlflow.db"
        self.entry = lambda key: Path(self.store) / key
        self.overrides = [f"stages.heads.resources.workers={self.workers}"]

    @property
    def jobs(self) -> list[Job]:
        """The jobs of stage 1 and stage 2."""
        return Experiment.load(self.file, self.overrides, self.store).jobs().jobs

    def drive(self) -> "Driver":
        """Give the command, for the first time or again."""
        driver = Driver(self)
        self.drivers.append(driver)
        return driver

    def close(self) -> None:
        """End what still runs, and clear away what Ray leaves of drivers that were killed."""
        for driver in self.drivers:
            driver.kill()
            sessions = f"bacl-ray-*/session_*_{driver.process.pid}"
            for session in Path(tempfile.gettempdir()).glob(sessions):
                shutil.rmtree(session.parent, ignore_errors=True)


class Driver:
    """A `bacl run`, and the lines that it says."""

    def __init__(self, place: Place) -> None:
        self.began = time.monotonic()
        command = [sys.executable, "-c", "from bacl_platform.cli.main import main; main()", "run"]
        command += [str(place.file), "--store", place.store]
        command += [part for override in place.overrides for part in ("--set", override)]
        command += ["--address", place.address] if place.address else []
        environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment | place.environment,
        )
        self.lines: list[tuple[float, str]] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def output(self) -> str:
        """All that it said so far."""
        return "\n".join(line for _, line in self.lines)

    def wait(self, seconds: float) -> int:
        """Its exit code; raises Hangs when it has none after so many seconds."""
        wait_for("the end of `bacl run`", lambda: self.process.poll() is not None, seconds)
        self._reader.join(10)
        return self.process.returncode

    def kill(self) -> None:
        """SIGKILL it; the processes of a Ray of its own die with it, one after the other."""
        if self.process.poll() is None:
            kill([self.process.pid])
        self.process.wait()

    def steps(self, since: float = 0) -> list[tuple[float, int]]:
        """Checkpoints of stage 2 that it told of, and when; its end is the last step."""
        found = []
        for at, line in self.lines:
            if at >= since and (step := re.match(r"heads: step (\d+)/", line)):
                found.append((at, int(step[1])))
            elif at >= since and line == "heads: done":
                found.append((at, STEPS))
        return found

    def starts(self, since: float = 0) -> list[tuple[float, int]]:
        """When stage 2 began to train or went on, and from which step."""
        found = []
        for at, line in self.lines:
            began = re.match(r"heads: (?:started|goes on from step (\d+))$", line)
            if at >= since and began:
                found.append((at, int(began[1] or 0)))
        return found

    def _read(self) -> None:
        for line in self.process.stdout:
            self.lines.append((time.monotonic(), line.rstrip("\n")))


def last_step(driver: Driver, store: Store, job: Job) -> int:
    """The newest step of stage 2 that is known of, as told or, every ten steps, as logged."""
    told = [step for _, step in driver.steps()]
    scalars = store.work(job.key) / SCALARS
    lines = scalars.read_text().splitlines() if scalars.exists() else []
    logged = [json.loads(line)["step"] for line in lines if line.endswith("}")]
    return max([0, *told, *logged])
