"""The whole run by its jobs' figures: time on the cluster, device-hours, room in the store."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bacl_platform.plan.job import Job
from bacl_platform.plan.rehearsed import (
    DRAWS,
    Bytes,
    Figures,
    bytes_of,
    devices,
    interval,
    once,
    whole,
)
from bacl_platform.run.placement import of_worker

Range = tuple[float, float, float]
"""An estimate, and the bounds of its interval."""


@dataclass(frozen=True)
class JobForecast:
    """What a job of the plan will take. workers: with how many. seconds: (DRAWS + 1,), the estimate
    first."""

    job: Job
    workers: int
    seconds: NDArray[Any]
    bytes: Bytes


@dataclass(frozen=True)
class Forecast:
    """What a run will take. hours: of each kind of device. peak: the most bytes that are in the
    store at once, more than are there now; left: what stays; written: all that is written."""

    seconds: Range
    hours: dict[str, Range]
    peak: int
    left: int
    written: int


def forecast_job(job: Job, figures: Figures, val_images: int, done: int) -> JobForecast:
    """A job of the plan, from the step that it goes on from."""
    seconds = whole(job, figures, val_images, done).seconds
    return JobForecast(job, figures.workers, seconds, bytes_of(job, figures, val_images, done))


def forecast_run(
    jobs: Sequence[JobForecast], room: Mapping[str, float], before: float, after: float
) -> Forecast:
    """The whole run: jobs as Ray starts them, each once its parent is done and there is room.

    room: what the cluster has, by Ray's names of resources. before, after: seconds before the first
    job and after the last.
    """
    ends = [schedule(jobs, room, draw) for draw in range(0, DRAWS + 1, 4)]
    last = np.array([max(end for _, end in found.values()) for found in ends])
    hours: dict[str, NDArray[Any]] = {}
    for one in jobs:
        count, kind = devices(one.job, one.workers)
        hours[kind] = hours.get(kind, np.zeros(DRAWS + 1)) + count * one.seconds / 3600
    entries = sum(one.bytes.entry for one in jobs)
    return Forecast(
        interval(once(before + after)[::4] + last),
        {kind: interval(found) for kind, found in hours.items()},
        _peak(jobs, ends[0]),
        entries,
        sum(one.bytes.written for one in jobs),
    )


def schedule(
    jobs: Sequence[JobForecast], room: Mapping[str, float], draw: int = 0
) -> dict[str, tuple[float, float]]:
    """When each job starts and ends, in seconds, by its key: the first in the plan's order whose
    parent is done and that there is room for."""
    waiting = list(jobs)
    own = {one.job.key for one in jobs}
    asks = {one.job.key: _asks(one) for one in jobs}
    running: list[tuple[float, JobForecast]] = []
    found: dict[str, tuple[float, float]] = {}
    time, over = 0.0, set[str]()
    while waiting or running:
        for one in list(waiting):
            parent = one.job.parent
            if parent in own and parent not in over:
                continue
            used = [asks[other.job.key] for _, other in running]
            if running and not _fits([asks[one.job.key], *used], room):
                continue
            waiting.remove(one)
            end = time + float(one.seconds[draw])
            running.append((end, one))
            found[one.job.key] = (time, end)
        ending = min(running, key=lambda pair: pair[0])
        running.remove(ending)
        time = ending[0]
        over.add(ending[1].job.key)
    return found


def _asks(one: JobForecast) -> dict[str, float]:
    """What Ray sets aside for all workers of a job."""
    return {n: amount * one.workers for n, amount in of_worker(one.job.resources).items()}


def _fits(asked: Sequence[Mapping[str, float]], room: Mapping[str, float]) -> bool:
    names = {name for one in asked for name in one}
    return all(sum(one.get(n, 0) for one in asked) <= room.get(n, 0) + 1e-6 for n in names)


def _peak(jobs: Sequence[JobForecast], times: Mapping[str, tuple[float, float]]) -> int:
    """The most bytes that jobs have in the store at the end of any of them."""
    most = 0
    for _, moment in times.values():
        there = 0
        for one in jobs:
            start, end = times[one.job.key]
            there += one.bytes.entry if end <= moment else 0
            there += one.bytes.work if start < moment <= end else 0
        most = max(most, there)
    return most
