"""Runs the trials of one sweep with Ray Tune."""

import contextlib
import logging
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from bacl.errors import RunError
from bacl_platform.tune.search import scheduler, searcher
from bacl_platform.tune.trainable import TrialContext, trainable

RESOURCES = {"cpu": 0, "node:__internal_head__": 0.001}
"""Resources of a trial: no core, and a sliver of the head's own resource, because Tune takes no
empty request."""

ACTORS = 4
"""Trials that run at once where they only wait for their job's end; each is a process."""


def fit(context: TrialContext, left_out: set[str]) -> None:
    """Let Tune run the trials of a sweep. left_out: keys of cells that are not run."""
    from ray import tune

    sweep, cells = context.plan.file.sweep, context.plan.cells
    keys = list(dict.fromkeys(cell.key for cell in cells if cell.key not in left_out))
    proposes = context.plan.proposes
    if not keys and not proposes:
        return
    # each trial is a process; where nothing but the end is waited for, few do for many
    side_by_side = len(keys) if sweep.stops else ACTORS
    # Ctrl-C is this driver's, not Tune's, which would wait for all trials' next results
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the new one prints, even if silent
    folder = context.store.root / ".work" / ".tune" / uuid.uuid4().hex[:8]
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # jobs report their own failures
    try:
        with _in(context.store.root):
            results = tune.Tuner(
                tune.with_resources(tune.with_parameters(trainable(), context=context), RESOURCES),
                param_space=None if proposes else {"cell": tune.grid_search(keys)},
                tune_config=tune.TuneConfig(
                    metric=sweep.metric,
                    mode=sweep.mode,
                    search_alg=searcher(sweep) if proposes else None,
                    num_samples=sweep.samples if proposes else 1,
                    scheduler=scheduler(sweep),
                    max_concurrent_trials=(sweep.max_concurrent or 1) if proposes else side_by_side,
                    reuse_actors=True,
                ),
                run_config=tune.RunConfig(
                    name=sweep.name, storage_path=str(folder), verbose=0, callbacks=[]
                ),
            ).fit()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    own = [error for error in results.errors if RunError.__name__ not in str(error)]
    if own:
        raise RunError(f"{context.plan.file.path}: a trial failed outside its job: {own[0]}")


@contextlib.contextmanager
def _in(folder: Path) -> Iterator[None]:
    """Within, the working directory is `folder`: Tune asks for it, and that of a submitted job may
    be gone."""
    before = os.open(".", os.O_RDONLY)
    os.chdir(folder)
    try:
        yield
    finally:
        os.fchdir(before)
        os.close(before)
