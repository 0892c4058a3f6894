"""What the ranks of a job do together: go on, or stop with the same sentence."""

import contextlib
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mmengine.dist import all_gather_object, broadcast_object_list, get_rank, is_main_process

from bacl.errors import BaclError, RunError
from bacl_platform.store.disk import disk_errors
from bacl_platform.store.store import Store
from bacl_platform.train.retries import lasts, sentence


class Agreed(RunError):
    """A failure that every rank raises at the same point: stopping is safe, retrying is useless."""


def together(function: Callable[[], Any]) -> Any:
    """Call on rank 0; every rank returns its result or raises its failure (Agreed)."""
    outcome: list[Any] = [None, None]
    if is_main_process():
        try:
            outcome[0] = function()
        except BaclError as error:
            outcome[1] = str(error)
    broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise Agreed(outcome[1])
    return outcome[0]


@dataclass(frozen=True)
class Machines:
    """Where the ranks of a job are. A machine has a folder of the store that others do not see:
    with a store in a bucket, its cache; a store that is a folder has all ranks on one."""

    store: Store
    hosts: list[str]
    """The names of the ranks' hosts."""
    on_host: bool
    """Whether this rank is the first of its host."""
    first: bool
    """Whether this rank is the first of its machine, which does what is done once on each."""
    main: bool
    """Whether this rank is on rank 0's machine."""
    several: bool

    def each(self, function: Callable[[], Any]) -> None:
        """Call once on each machine; what fails on one is raised on all ranks, as by `every`."""
        self.every(function if self.first else lambda: None)

    def every(self, function: Callable[[], Any]) -> None:
        """Call on every rank; all go on, or raise the failure of the first that failed (Agreed),
        which names its host where there are several."""
        problem = None
        try:
            with disk_errors(self.store.root):
                function()
        except (BaclError, OSError) as error:
            if not lasts(error):
                raise
            problem = sentence(error)
        for rank, found in enumerate(all_gather_object(problem)):
            if found is not None:
                apart = self.several or len(set(self.hosts)) > 1
                where = f"node {self.hosts[rank]} (rank {rank}): " if apart else ""
                raise Agreed(where + found)


def machines(store: Store) -> Machines:
    """Where the ranks are."""
    cache = ""
    with contextlib.suppress(OSError):  # a folder that cannot be written is told by who uses it
        cache = store.identity() if store.bucket else ""
    host = socket.gethostname()
    hosts, caches = all_gather_object(host), all_gather_object(cache)
    return Machines(
        store,
        hosts,
        on_host=hosts.index(host) == get_rank(),
        first=caches.index(cache) == get_rank(),
        main=cache == caches[0],
        several=len(set(caches)) > 1,
    )
