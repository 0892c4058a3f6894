"""Sweeps that screen, without Ray: which phase trains what, and what goes on after an end."""

from contextlib import AbstractContextManager, nullcontext

import pytest

from bacl.errors import RunError
from bacl_platform.console import Console
from bacl_platform.plan.sweep_memory import Notes
from bacl_platform.plan.sweep_plan import Preparation
from bacl_platform.tune import sweeps

SCREEN = """
name: screened
base: tiny.yaml
stage: heads
variant: bacl
space: {variant.alpha: [0, 0.25, 0.5, 1]}
screen: {confirm: 2}
variants_per_job: 2
"""
APS = {0: 0.1, 0.25: 0.4, 0.5: 0.2, 1: 0.3}


class Silent(AbstractContextManager):
    """In the place of MLflow."""

    def __exit__(self, *_):
        """Nothing."""

    def add_trials(self, trials):
        """Nothing."""

    def finish(self, job, cached):
        """Nothing."""

    def report(self, page):
        """Nothing."""


@pytest.fixture
def phases(monkeypatch, store, fill):
    """The alphas that each phase has trained, replayed or exactly. In the place of Ray and Tune:
    jobs have results at once. `failing` alphas have none, and Ctrl-C comes before `stop` phases."""

    class Phases(list):
        failing, stop = (), None

        def __call__(self, plans, parents, store, *_):
            if len(self) == self.stop:
                raise KeyboardInterrupt
            trained = []
            for plan in plans:
                failed = {}
                for job in plan.missing(store):
                    cells = [cell for cell in plan.cells if cell.job.key == job.key]
                    alphas = {c.trial.variant: c.trial.values["variant.alpha"] for c in cells}
                    if set(alphas.values()) & set(self.failing):
                        failed |= {cell.key: "loss is not finite" for cell in cells}
                        continue
                    aps = {(name, job.seed): APS[alpha] for name, alpha in alphas.items()}
                    fill([job], {("features", job.seed): 0.0} | aps)
                    trained += [(alpha, job.features) for alpha in alphas.values()]
                Notes(plan, store, "failed").write(failed)
            self.append(sorted(trained))
            if any(Notes(plan, store, "failed").read() for plan in plans):
                raise RunError("job heads: loss is not finite")

    made = Phases()
    monkeypatch.setattr(sweeps, "_tune", made)
    monkeypatch.setattr(sweeps, "ray_for", lambda *_: nullcontext())
    monkeypatch.setattr(sweeps, "tracking_of", lambda *_: Silent())
    return made


@pytest.fixture
def run(sweep, plan_sweep_files, store):
    """Runs sweep files and gives what was said."""

    def made(*texts):
        console = Console(record=True, width=200)
        files = [sweep(text, f"{number}.yaml") for number, text in enumerate(texts)]
        plans = plan_sweep_files(*files)
        sweeps.run_sweeps(plans, store, Preparation(store), console)
        return console.export_text()

    return made


SCREENED = [(alpha, "replay") for alpha in APS]


def test_best_train_exactly_once_all_are_screened(phases, run):
    assert "screened: screened, now exactly: alpha=0.25; alpha=1\n" in run(SCREEN)
    assert phases == [SCREENED, [(0.25, "exact"), (1, "exact")]]
    assert "nothing to do: 6 of 6 trials are in the store" in run(SCREEN)
    assert len(phases) == 2


def test_sweep_stopped_before_confirming_goes_on_there(phases, run):
    phases.stop = 1
    with pytest.raises(KeyboardInterrupt):
        run(SCREEN)
    phases.stop = None
    run(SCREEN)
    assert phases == [SCREENED, [(0.25, "exact"), (1, "exact")]]


def test_failed_trials_are_told_after_the_others_are_confirmed(phases, run):
    phases.failing = [0.25]  # and the one that shares its job
    with pytest.raises(RunError, match="loss is not finite"):
        run(SCREEN)
    assert phases == [[(0.5, "replay"), (1, "replay")], [(0.5, "exact"), (1, "exact")]]
    said = run(SCREEN)
    assert "4 of 6 trials are in the store" in said
    assert "2 failed before: run them again with --retry-failed" in said


def test_more_values_may_change_which_are_confirmed(phases, run):
    run(SCREEN.replace("[0, 0.25, 0.5, 1]", "[0, 0.5, 1]"))
    assert phases[1] == [(0.5, "exact"), (1, "exact")]
    run(SCREEN)
    assert phases[2:] == [[(0.25, "replay")], [(0.25, "exact")]]


def test_sweeps_run_together_are_confirmed_together(phases, run):
    other = SCREEN.replace("screened", "other").replace("[0, 0.25, 0.5, 1]", "[0, 0.5]")
    exact = SCREEN.replace("screened", "exact").replace("screen: {confirm: 2}", "")
    run(SCREEN, other, exact)
    assert set(phases[0]) == {*SCREENED, *((alpha, "exact") for alpha in APS)}
    assert phases[1:] == []  # the exact sweep has trained what the others confirm
