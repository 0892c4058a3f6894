"""How benches measure: in turns, after a warm-up, by medians."""

import io
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from typing import Any

IMAGES = {"small": (400, 672), "full": (800, 1333)}
"""(height, width) in pixels; a full step takes one core some ten seconds."""


@dataclass(frozen=True)
class Setting:
    """What to measure on; without `repeat`, a bench chooses how often."""

    device: str = "cpu"
    threads: int = 1
    repeat: int | None = None
    image: tuple[int, int] = IMAGES["small"]
    """(height, width) in pixels."""
    config: str | None = None
    """Configuration of MMDetection's whose detector `step` takes; None for R50-FPN."""

    @property
    def full(self) -> bool:
        """Whether data have their whole size, as the image has."""
        return self.image == IMAGES["full"]


@dataclass(frozen=True)
class Row:
    """Two measurements that belong together, in `unit`; `limit` is the most their ratio may be."""

    name: str
    what: str
    ours: float
    peer: str
    theirs: float
    limit: float | None
    unit: str = "ms"
    parts: dict[str, dict[str, float]] = field(default_factory=dict)
    """Milliseconds of each part of a step, by whose step it is."""

    @property
    def ratio(self) -> float:
        return self.ours / self.theirs

    def as_json(self) -> dict[str, Any]:
        parts = {"parts": self.parts} if self.parts else {}
        return {
            "name": self.name,
            "ratio": self.ratio,
            "limit": self.limit,
            "what": self.what,
            "ours": self.ours,
            "peer": self.peer,
            "theirs": self.theirs,
            "unit": self.unit,
            **parts,
        }


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what MMDetection prints and warns of away from the terminal."""
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def synchronize(device: str) -> None:
    """Wait until the device has done what it was given."""
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


def in_turns(
    steps: Sequence[Callable[[], object]], repeat: int, warm_up: int, device: str
) -> list[float]:
    """Median milliseconds of each step; every round runs each once, and the first do not count."""
    taken: list[list[float]] = [[] for _ in steps]
    for round_ in range(warm_up + repeat):
        for step, times in zip(steps, taken, strict=True):
            synchronize(device)
            start = time.perf_counter()
            step()
            synchronize(device)
            if round_ >= warm_up:
                times.append(1000 * (time.perf_counter() - start))
    return [statistics.median(times) for times in taken]


class Clock:
    """Milliseconds that each part of a step takes, without the parts that run inside of it."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.taken: dict[str, float] = {}
        self._inside: list[float] = []
        """For each part that runs now, milliseconds of what ran inside of it."""

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what runs within as `name`."""
        synchronize(self.device)
        start = time.perf_counter()
        self._inside.append(0.0)
        try:
            yield
        finally:
            synchronize(self.device)
            whole = 1000 * (time.perf_counter() - start)
            self.taken[name] = self.taken.get(name, 0.0) + whole - self._inside.pop()
            if self._inside:
                self._inside[-1] += whole

    @contextmanager
    def watching(self, calls: Sequence[tuple[Any, str, str]]) -> Iterator[None]:
        """Within, count calls of methods of single objects: (object, method, name of the part)."""
        for owner, method, name in calls:
            setattr(owner, method, self._counted(getattr(owner, method), name))
        try:
            yield
        finally:
            for owner, method, _ in calls:
                delattr(owner, method)

    def _counted(self, original: Callable[..., Any], name: str) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            with self.part(name):
                return original(*args, **kwargs)

        return counted
