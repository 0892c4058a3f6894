"""Exported variants in a store."""

from pathlib import Path

from bacl.errors import RunError, UsageError
from bacl_platform.plan.job import Plan
from bacl_platform.store.names import CHECKPOINT
from bacl_platform.store.store import Store


def exported(
    plan: Plan, store: Store, variant: str | None, command: str, seed: int | None = None
) -> Path:
    """The checkpoint of a variant, with its configuration beside it.

    command: what the user runs where it is missing. seed: that it was trained with; None is the
    plan's first. Raises UsageError for an unknown variant or seed, RunError for a variant that is
    not in the store.
    """
    seeds = list(dict.fromkeys(job.seed for job in plan.jobs))
    if seed is not None and seed not in seeds:
        raise UsageError(
            f"seed: expected one of {plan.experiment.name}'s ({', '.join(map(str, seeds))}), got "
            f"{seed}"
        )
    chosen = seeds[0] if seed is None else seed
    jobs = {name: job for job in plan.jobs if job.seed == chosen for name in job.variants}
    if variant not in jobs:
        raise UsageError(
            f"variant: expected one of {plan.experiment.name}'s ({', '.join(jobs)}), got "
            f"{variant or 'nothing'}"
        )
    job = jobs[variant]
    if not store.complete(job.key):
        raise RunError(
            f"{variant} (job {job.name}, {job.key}) is not in the store {store.url}: "
            f"run `{command}` first"
        )
    return store.entry(job.key) / "variants" / variant / CHECKPOINT
