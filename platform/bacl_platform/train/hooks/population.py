"""Population based training, between the evaluations of a bank."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.hooks import Hook
from mmengine.runner import Runner

from bacl.averaging import averaging
from bacl_platform.plan.job import Job
from bacl_platform.plan.metric_names import metric_name
from bacl_platform.plan.population import Move, evolve
from bacl_platform.store.disk import write_text
from bacl_platform.train.model import bare_model
from bacl_platform.train.ranks import together


class PopulationBasedTraining(Hook):
    """Lets the worst variants of a population go on from the best's state, with other values.

    Moves are written down before training goes on. A checkpoint is older than the evaluation at its
    step: a resumed job makes the moves of that step again, or evaluates first if there are none.
    """

    def __init__(self, job: Job, path: Path) -> None:
        assert job.population is not None
        self.job, self.path, self.population = job, path, job.population
        self.made: list[dict[str, Any]] = []
        """A row for each evaluation: its step, and the moves after it."""
        self.values = dict(self.population.members)

    def before_train(self, runner: Runner) -> None:
        step = runner.iter
        noted = together(
            lambda: json.loads(self.path.read_text(encoding="utf-8")) if self.path.exists() else []
        )
        self.made = [row for row in noted if row["step"] <= step]
        for member, values in self.values.items():
            self._change(runner, member, values)
        for row in self.made:
            for move in row["moves"]:
                self._make(runner, Move(*move), copying=row["step"] == step)
        evaluates = step and step % runner.train_loop.val_interval == 0
        if evaluates and all(row["step"] < step for row in self.made):
            runner.val_loop.run()

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float]) -> None:
        left = set(bare_model(runner.model).banks()[0].keys())
        for member in left:
            fields = self.values[member].items()
            numbers = {f: v for f, v in fields if isinstance(v, int | float)}
            metrics |= {metric_name(member, f): v for f, v in numbers.items()}
        moves = []
        interval = self.population.interval * runner.train_loop.val_interval
        if runner.iter % interval == 0 and runner.iter < self.job.iterations:
            metric = self.population.metric
            scores = {member: metrics[metric_name(member, metric)] for member in left}
            generator = np.random.default_rng([self.job.seed, runner.iter])
            moves = evolve(self.population, scores, self.values, generator)
        self.made.append({"step": runner.iter, "moves": moves})
        together(lambda: write_text(self.path, json.dumps(self.made)))
        for move in moves:
            self._make(runner, move, copying=True)

    def _make(self, runner: Runner, move: Move, copying: bool) -> None:
        if copying:
            _copy_state(runner, move.source, move.member)
            runner.logger.info("%s goes on from %s with %s", *move)
        self._change(runner, move.member, move.values)

    def _change(self, runner: Runner, member: str, values: dict[str, Any]) -> None:
        self.values[member] = values
        for bank in bare_model(runner.model).banks():
            if member in bank:
                for field, value in values.items():
                    bank[member].change(field, value)


def _copy_state(runner: Runner, source: str, member: str) -> None:
    """Give a variant another's classifiers, state, momenta and averages, unless one of them has
    left."""
    if not {source, member} <= bare_model(runner.model).banks()[0].keys():
        return
    momenta = runner.optim_wrapper.optimizer.state
    for bank in bare_model(runner.model).banks():
        bank[member].load_state_dict(bank[source].state_dict())
        pairs = zip(bank[member].parameters(), bank[source].parameters(), strict=True)
        for own, other in pairs:
            momenta[own] = copy.deepcopy(momenta[other])
    if averages := averaging(runner):
        averages.go_on_from(source, member)
