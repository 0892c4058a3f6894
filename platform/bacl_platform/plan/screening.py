"""Screen and confirm: all trials of a sweep train on stored features, the best of them exactly.

Which trials are the best follows from the results in the store, so nothing else is remembered.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import mean

from bacl_platform.plan.sweep_memory import failed_before, result_of
from bacl_platform.plan.sweep_plan import Cell, Preparation, SweepPlan, plan_sweeps
from bacl_platform.plan.trials import Point, Trial
from bacl_platform.store.store import Store


def scores(cells: Sequence[Cell], metric: str, store: Store) -> dict[Point, float]:
    """Means over seeds, of the trials that have a result with each."""
    found: dict[Point, list[float | None]] = {}
    for cell in cells:
        result = result_of(cell, store) if store.complete(cell.job.key) else {}
        found.setdefault(cell.trial.point, []).append(result.get(metric))
    whole = {point: [v for v in values if v is not None] for point, values in found.items()}
    return {point: mean(v) for point, v in whole.items() if len(v) == len(found[point])}


def best(plan: SweepPlan, store: Store) -> list[Trial]:
    """The trials to confirm, the best first; the baseline's last, where it is not among them."""
    sweep = plan.file.sweep
    assert sweep.screen is not None
    found = scores(plan.cells, sweep.metric, store)
    sign = -1 if sweep.mode == "max" else 1
    trials = {cell.trial.point: cell.trial for cell in plan.cells}
    ranked = [trials[point] for point in sorted(found, key=lambda point: sign * found[point])]
    chosen = ranked[: sweep.screen.confirm]
    baseline = plan.file.baseline
    others = [trial for trial in ranked if trial.variant == baseline]
    return chosen if any(trial in chosen for trial in others) else [*chosen, *others[:1]]


def confirmations(
    plans: Sequence[SweepPlan], prepare: Preparation, store: Store, searched: bool = False
) -> list[SweepPlan]:
    """Plans of the exact trials of sweeps whose screening is over, as far as `plans` screen.

    It is over once every trial has a result or has failed. searched: whether searches have proposed
    all that they will, which else their number tells.
    """
    over = [plan for plan in plans if plan.file.sweep.screen and _is_over(plan, store)]
    chosen = [
        (plan.file, [plan.file.trial(trial.values, exact=True) for trial in best(plan, store)])
        for plan in over
    ]
    made = plan_sweeps([f for f, _ in chosen], [its for _, its in chosen], prepare, store)
    return [
        replace(plan, confirms=True)
        for screened, plan in zip(over, made, strict=True)
        if plan.cells and (searched or _is_searched(screened) or _has_begun(plan, store))
    ]


def expected(plan: SweepPlan, prepare: Preparation, store: Store) -> SweepPlan:
    """What confirming will look like, before it is known which trials are the best: as if they
    were the first."""
    file, screen = plan.file, plan.file.sweep.screen
    assert screen is not None
    trials = list({cell.trial.point: cell.trial for cell in plan.cells}.values())
    stand_in = trials[: screen.confirm] or [file.example()]
    exact = [file.trial(trial.values, exact=True) for trial in stand_in]
    (made,) = plan_sweeps([file], [exact], prepare, store)
    return replace(made, confirms=True)


def _is_over(plan: SweepPlan, store: Store) -> bool:
    failed = failed_before(plan, store)
    return all(c.key in failed or store.complete(c.job.key) for c in plan.cells)


def _is_searched(plan: SweepPlan) -> bool:
    trials = {cell.trial.point for cell in plan.cells}
    return not plan.proposes or len(trials) >= plan.file.sweep.count()


def _has_begun(plan: SweepPlan, store: Store) -> bool:
    """Whether exact trials have results, so that the search was over: it may propose a trial
    twice."""
    return any(store.complete(cell.job.key) for cell in plan.cells)


@dataclass(frozen=True)
class Agreement:
    """How exact results order the trials that screening chose."""

    trials: int
    """How many have both."""
    correlation: float | None
    """Spearman's; None where all are equal."""
    best_screened: str
    best_exact: str
    """Labels of the best trials."""

    def sentence(self, metric: str) -> str:
        """What it says, in words."""
        same = self.best_screened == self.best_exact
        found = (
            f"the best screened, {self.best_screened}, is also the best exact"
            if same
            else f"the best screened is {self.best_screened}, the best exact {self.best_exact}"
        )
        if self.correlation is None:
            return f"Of {self.trials} confirmed, by {metric}, {found}."
        return (
            f"The ranks by {metric} of {self.trials} confirmed agree with Spearman's "
            f"correlation {self.correlation:+.2f}; {found}."
        )


def agreement(plan: SweepPlan, confirmed: SweepPlan, store: Store) -> Agreement | None:
    """How screened and exact results agree; None where fewer than two trials have both."""
    sweep = plan.file.sweep
    before = scores(plan.cells, sweep.metric, store)
    after = scores(confirmed.cells, sweep.metric, store)
    both = [point for point in after if point in before]
    if len(both) < 2:
        return None
    labels = {cell.trial.point: cell.trial.label for cell in confirmed.cells}
    sign = 1 if sweep.mode == "max" else -1
    return Agreement(
        trials=len(both),
        correlation=rank_correlation([before[p] for p in both], [after[p] for p in both]),
        best_screened=labels[max(both, key=lambda point: sign * before[point])],
        best_exact=labels[max(both, key=lambda point: sign * after[point])],
    )


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Spearman's rank correlation; None where all values of either are equal."""
    from scipy.stats import spearmanr

    if len(set(first)) < 2 or len(set(second)) < 2:
        return None
    return float(spearmanr(first, second).statistic)
