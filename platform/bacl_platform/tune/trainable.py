"""What Tune runs: trials that train nothing themselves, and wait for the job of their cell."""

import math
from dataclasses import dataclass
from typing import Any

from bacl.errors import RunError
from bacl_platform.plan.sweep_plan import Preparation, SweepPlan, plan_sweeps
from bacl_platform.store.store import Store
from bacl_platform.tune.search import decoded
from bacl_platform.tune.trial_state import Result


@dataclass(frozen=True)
class TrialContext:
    """What the trials of a sweep are given."""

    number: int
    """Which of the sweeps it is."""
    plan: SweepPlan
    store: Store
    trial_state: Any
    prepare: Preparation


def trainable() -> type:
    """The class of Tune's trials; made by a function because its base class imports Ray."""
    import ray
    from ray import tune

    class CellTrial(tune.Trainable):
        """One cell; or, of a search that proposes trials, one trial with all its seeds."""

        context: TrialContext

        def setup(self, config: dict[str, Any], context: TrialContext | None = None) -> None:
            self.context = context or self.context
            self.number, self.ended = 0, False
            if "cell" in config:
                self.cells = [c for c in self.context.plan.cells if c.key == config["cell"]]
            else:
                file = self.context.plan.file
                values = decoded(config, file.sweep.spaces[0])
                trial = file.trial(values)
                prepare, store = self.context.prepare, self.context.store
                (proposed,) = plan_sweeps([file], [[trial]], prepare, store)
                self.cells = proposed.cells
                wanted = (self.context.number, values, proposed.cells)
                ray.get(self.context.trial_state.want.remote(wanted))

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self.setup(new_config)
            return True

        def step(self) -> dict[str, Any]:
            sweep, trial_state = self.context.plan.file.sweep, self.context.trial_state
            if sweep.stops:
                return self._next_evaluation()
            found = [_found(trial_state.outcome.remote(c.key, c.job.key)) for c in self.cells]
            self.ended = True
            values = [f.get(sweep.metric, math.nan) for f in found]  # NaN: nothing to evaluate
            return {sweep.metric: sum(values) / len(values), "done": True}

        def _next_evaluation(self) -> dict[str, Any]:
            (cell,) = self.cells
            found = _found(self.context.trial_state.row.remote(cell.key, cell.job.key, self.number))
            self.number += 1
            self.ended = found.get("step", math.inf) >= cell.job.iterations
            return {**found, "done": self.ended}

        def cleanup(self) -> None:
            if not self.ended and self.context.plan.file.sweep.stops:
                ray.get([self.context.trial_state.stop.remote(cell.key) for cell in self.cells])

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            """Nothing: checkpoints are the store's."""

        def load_checkpoint(self, checkpoint: Any) -> None:
            """Nothing, as nothing was saved."""

    return CellTrial


def _found(said: Any) -> dict[str, float]:
    import ray

    result: Result = ray.get(said)
    if isinstance(result, str):
        raise RunError(result)
    return result
