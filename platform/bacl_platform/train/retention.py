"""Which checkpoints of a job stay: the newest while it trains, the chosen ones for good."""

import json
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from bacl_platform.plan.job import Job
from bacl_platform.plan.metric_names import owner
from bacl_platform.store.checkpoints import checkpoints, newest
from bacl_platform.store.disk import link
from bacl_platform.store.manifest import broken
from bacl_platform.store.names import CHECKPOINTS, SCALARS


@dataclass(frozen=True)
class Retention:
    """The rule of a job's recipe (`keep_last`, `keep_every`, `keep_best`).

    What `keep_last` keeps lets an interrupted job go on, and goes when the job is finished; the
    others are published with its entry.
    """

    job: Job
    work: Path
    """Its folder, where it logs and has its checkpoints."""

    def kept(self, steps: Collection[int]) -> set[int]:
        """Steps of the checkpoints that stay for now, given those of all."""
        return newest(steps, self.job.recipe.keep_last) | self.lasting(steps)

    def lasting(self, steps: Collection[int]) -> set[int]:
        """Steps of the checkpoints that stay for good, given those of all."""
        recipe = self.job.recipe
        kept = {step for step in steps if recipe.keep_every and step % recipe.keep_every == 0}
        if recipe.keep_best:
            scores = {step: ap for step, ap in self._scores().items() if step in steps}
            if scores:
                kept.add(max(scores, key=lambda step: (scores[step], -step)))
        return kept

    def _scores(self) -> dict[int, float]:
        """AP of every evaluation so far, the mean over the variants that were evaluated."""
        path = self.work / SCALARS
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        found: dict[int, float] = {}
        for line in lines:
            row = json.loads(line)
            names = [name for name in row if owner(name, self.job)[1] == "AP"]
            if names:
                found[row["step"]] = sum(row[name] for name in names) / len(names)
        return found

    def save_lasting(self, folder: Path) -> None:
        """Put the checkpoints that stay for good into a folder, those that are whole."""
        shutil.rmtree(folder, ignore_errors=True)
        there = dict(checkpoints(self.work / CHECKPOINTS))
        for step in self.lasting(there.keys()):
            if broken(there[step]) is None:
                # the work keeps its own names for the files until the entry is published
                shutil.copytree(there[step], folder / there[step].name, copy_function=link)
