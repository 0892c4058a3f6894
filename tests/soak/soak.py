"""The soak: `make soak` hits one run after another with a fault and compares what they end with.

    python tests/soak/soak.py --faults worker,node --rounds 2 --seed 7 --json soak.json

Each run trains stage 2 of a tiny experiment, from the same stage 1, with real processes on this
machine. A fault strikes at a random step; then weights, metrics, logged rows and MLflow's must be
those of an undisturbed run, bit for bit. The exit code is 1 if anything was lost or late.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = paths = [str(ROOT), str(ROOT / "platform")]
os.environ["PYTHONPATH"] = os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")])
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

from cluster import Cluster  # noqa: E402
from driver import CHECKPOINT_EVERY, EXPERIMENT, STEPS, Hangs, Place, last_step, wait_for  # noqa: E402
from faults import FAULTS, Fault, Run  # noqa: E402
from results import Results, differences, leftovers, read  # noqa: E402

RECOVERY = 60
"""Seconds in which a run must make a new step once it can."""
WHOLE = 300
"""Seconds in which a run must end after its fault."""


@dataclass
class Outcome:
    """What a fault did."""

    fault: str
    step: int | None = None
    """At which it struck."""
    repeated: int | None = None
    """Steps that were trained twice, to within the ten that are logged together."""
    recovery: float | None = None
    """Seconds from when the run could go on to the first checkpoint after that."""
    lost: float | None = None
    """Seconds that the run took longer than an undisturbed one."""
    trouble: str = ""
    """What was lost, late or hung; nothing if all is well."""


class Soak:
    """Runs of one experiment, with what is shared by them: references, cluster."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.rng = folder, random.Random(seed)
        self._count = 0
        self._cluster: Cluster | None = None
        self._references: dict[int, tuple[Results, float]] = {}
        self._stage1: Path | None = None

    def close(self) -> None:
        """End the cluster."""
        if self._cluster is not None:
            self._cluster.stop()

    def suffer(self, name: str) -> Outcome:
        """One run with one fault."""
        fault, outcome = FAULTS[name], Outcome(name)
        expected, seconds = self._reference(fault.ranks)
        with self._place(name, fault) as (place, server):
            began = time.monotonic()
            job = place.jobs[1]
            run = Run(place, place.drive(), job, self.rng, self._on(fault.ranks), server)
            try:
                self._wait_for_a_step(run)
                driver = fault.strike(run)
                outcome.step = run.step
                left = WHOLE - (time.monotonic() - run.over)
                if code := driver.wait(left):
                    raise Hangs(f"`bacl run` ended with {code}: {driver.output[-300:]}")
                outcome.lost = time.monotonic() - began - seconds
                self._judge(run, fault, expected, outcome)
            except (Hangs, ValueError, OSError) as error:
                outcome.step, outcome.trouble = run.step, str(error)
            finally:
                place.close()
        if outcome.trouble:  # nothing of a run that went wrong should weigh on the next
            self._end_cluster()
        return outcome

    def _wait_for_a_step(self, run: Run) -> None:
        # until the first checkpoint there is nothing that a damage could hit
        step = self.rng.randrange(CHECKPOINT_EVERY + 5, STEPS - 2 * CHECKPOINT_EVERY)

        def there() -> bool:
            if run.driver.process.poll() is not None:
                raise Hangs(f"`bacl run` ended before its fault: {run.driver.output[-300:]}")
            return last_step(run.driver, run.store, run.job) >= step

        wait_for(f"step {step}", there, WHOLE)
        time.sleep(self.rng.uniform(0, 0.5))

    def _judge(self, run: Run, fault: Fault, expected: Results, outcome: Outcome) -> None:
        since = [driver.starts(run.hit) for driver in run.place.drivers]
        starts = sorted(start for of_driver in since for start in of_driver)
        began, step = starts[0] if starts else (run.hit, run.step)
        outcome.repeated = max(0, run.step - step)
        moves = [at for d in run.place.drivers for at, to in d.steps(began) if to > step]
        outcome.recovery = max(0.0, min(moves) - run.over)
        found = read(run.place.entry(run.job.key), run.job, run.place.tracking)
        trouble = differences(expected, found)
        trouble += [f"left behind: {path}" for path in leftovers(run.store.root / ".work")]
        if outcome.repeated > fault.checkpoints * CHECKPOINT_EVERY:
            trouble.append("more steps repeated than there are between checkpoints")
        if outcome.recovery > RECOVERY:
            trouble.append(f"recovery took longer than {RECOVERY} s")
        outcome.trouble = "; ".join(trouble)

    def _reference(self, ranks: int) -> tuple[Results, float]:
        """Results and seconds of an undisturbed run."""
        if ranks not in self._references:
            self._features()
            with self._place("reference", Fault(lambda run: run.driver, ranks=ranks)) as (place, _):
                began = time.monotonic()
                driver = place.drive()
                if driver.wait(WHOLE):
                    raise RuntimeError(f"the undisturbed run failed:\n{driver.output}")
                seconds = time.monotonic() - began
                job = place.jobs[1]
                found = read(place.entry(job.key), job, place.tracking)
                self._references[ranks] = found, seconds
        return self._references[ranks]

    def _features(self) -> Path:
        """The entry of stage 1, which all runs start from."""
        if self._stage1 is None:
            place = Place(self.folder / "features")
            place.file.write_text(EXPERIMENT[: EXPERIMENT.index("  heads:")])
            place.overrides = []
            Path(place.store).mkdir()
            try:
                if place.drive().wait(WHOLE):
                    raise RuntimeError(f"stage 1 failed:\n{place.drivers[0].output}")
            finally:
                place.close()
            self._stage1 = place.entry(place.jobs[0].key)
        return self._stage1

    @contextlib.contextmanager
    def _place(self, name: str, fault: Fault) -> Iterator[tuple]:
        """A fresh store with stage 1 in it, and the server that the fault is about."""
        self._count += 1
        cluster = self._on(fault.ranks)
        place = Place(
            self.folder / f"{self._count}-{name}", fault.ranks, cluster.address if cluster else None
        )
        Path(place.store).mkdir()
        with fault.around(place, self._features()) as server:
            yield place, server

    def _on(self, ranks: int) -> Cluster | None:
        if ranks == 1:
            return None
        if self._cluster is None:
            self._cluster = Cluster(self.folder / "ray", nodes=ranks)
        return self._cluster

    def _end_cluster(self) -> None:
        if self._cluster is not None:
            self._cluster.stop()
            self._cluster = None


def table(outcomes: list[Outcome]) -> Table:
    """A row for each fault."""
    shown = Table("fault", "step", "repeated", "recovery", "lost", "verdict", box=None)
    for one in outcomes:
        numbers = [_number(one.step), _number(one.repeated)]
        times = [_number(one.recovery, " s"), _number(one.lost, " s")]
        shown.add_row(one.fault, *numbers, *times, one.trouble or "ok")
    return shown


def _number(value: float | None, unit: str = "") -> str:
    return "" if value is None else f"{value:.0f}{unit}"


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="soak.py", description=__doc__.splitlines()[0])
    parser.add_argument("--faults", default=",".join(FAULTS), help="some of the default, by commas")
    parser.add_argument("--rounds", type=int, default=3, help="how often each of them strikes")
    parser.add_argument("--seed", type=int, default=0, help="of the steps at which they strike")
    parser.add_argument("--json", type=Path, help="file to write the outcomes to")
    parser.add_argument("--keep", action="store_true", help="keep the runs' folders")
    options = parser.parse_args()
    names = options.faults.split(",")
    if unknown := [name for name in names if name not in FAULTS]:
        parser.error(f"--faults: expected some of {', '.join(FAULTS)}, got {', '.join(unknown)}")
    console = Console()
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    outcomes: list[Outcome] = []
    soak = Soak(folder, options.seed)
    began = time.monotonic()
    try:
        for _ in range(options.rounds):
            for name in names:
                outcomes.append(soak.suffer(name))
                one = outcomes[-1]
                said = f"{name} at step {one.step}: {one.trouble or 'ok'}"
                console.print(said, markup=False, soft_wrap=True)
    finally:
        soak.close()
        if options.keep:
            console.print(f"kept: {folder}", soft_wrap=True)
        else:
            shutil.rmtree(folder, ignore_errors=True)
        if options.json:
            options.json.write_text(json.dumps([asdict(one) for one in outcomes], indent=1))
    bad = sum(bool(one.trouble) for one in outcomes)
    console.print(table(outcomes))
    minutes = (time.monotonic() - began) / 60
    console.print(f"{len(outcomes)} faults in {minutes:.0f} min, {bad} with something lost or late")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
