"""A sweep's search and scheduler as Tune has them."""

from dataclasses import dataclass
from typing import Any

from bacl_platform.spec.space import Space
from bacl_platform.spec.sweep import Asha, Median, Sweep


@dataclass(frozen=True)
class Proposer:
    """Defines a space for Optuna, which draws points of it. A class, because Tune pickles it."""

    space: Space

    def __call__(self, trial: Any) -> None:
        values: dict[str, Any] = {}
        for path, axis in sorted(self.space.items(), key=lambda item: bool(item[1].when)):
            if not axis.counts(values):
                continue
            if axis.choice is not None:  # by its place, because a choice may be no plain value
                place = trial.suggest_categorical(path, list(range(len(axis.choice))))
                values[path] = axis.choice[place]
            elif axis.randint is not None:
                values[path] = trial.suggest_int(path, *axis.randint)
            else:
                low, high = axis.uniform or axis.loguniform or (0, 0)
                log = axis.loguniform is not None
                values[path] = trial.suggest_float(path, low, high, log=log)


def searcher(sweep: Sweep) -> Any:
    import optuna
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    (space,) = sweep.spaces
    return OptunaSearch(
        Proposer(space), metric=sweep.metric, mode=sweep.mode, seed=sweep.search_seed
    )


def decoded(config: dict[str, Any], space: Space) -> dict[str, Any]:
    """Values of a trial from what the searcher proposed."""
    return {
        path: value if (choice := space[path].choice) is None else choice[value]
        for path, value in config.items()
    }


def scheduler(sweep: Sweep) -> Any:
    from ray.tune.schedulers import ASHAScheduler, MedianStoppingRule

    if isinstance(sweep.scheduler, Asha):
        return ASHAScheduler(
            time_attr="training_iteration",
            max_t=10**6,
            grace_period=sweep.scheduler.grace,
            reduction_factor=sweep.scheduler.reduction,
        )
    if isinstance(sweep.scheduler, Median):
        return MedianStoppingRule(
            time_attr="training_iteration",
            grace_period=sweep.scheduler.grace,
            min_samples_required=sweep.scheduler.least,
        )
    return None
