"""Files and failures that the ranks of a job hand each other through torch.distributed, because
they may be on machines that share no folder.

Files travel in parts, so memory stays flat. All ranks call a function together, and what fails on
one of them is raised on all; with one rank nothing is sent.
"""

import socket
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from mmengine.dist import all_gather_object, broadcast_object_list, get_comm_device, get_dist_info
from torch import Tensor

from bacl.errors import RunError

AT_ONCE = 32 * 2**20
"""Bytes of a part."""


class Attempts:
    """What this rank tries with files, and its first failure, which `agree` raises on all ranks.

    A rank that fails still sends and receives what the others expect of it, so that none waits.
    """

    def __init__(self) -> None:
        self.failure: Exception | None = None

    @contextmanager
    def trying(self, what: str) -> Iterator[None]:
        """Within, note an error of files. what: such as `its shards could not be written`."""
        try:
            yield
        except OSError as error:
            rank, ranks = get_dist_info()
            # the error of an only rank says it all
            named = RunError(f"node {socket.gethostname()} (rank {rank}): {what}: {error}")
            self.failure = self.failure or (named if ranks > 1 else error)

    def agree(self) -> None:
        """Raise on all ranks what failed on the first of those that failed."""
        for failure in all_gather_object(self.failure):
            if failure is not None:
                raise failure


def collect(folder: Path, names: Sequence[str]) -> None:
    """Bring the files `names` of each rank's folder into rank 0's folder of the same path.

    Ranks that see rank 0's folder send nothing. The names of different ranks differ.
    """
    rank, ranks = get_dist_info()
    if ranks == 1:
        return
    attempts = Attempts()
    sizes: dict[str, int] = {}
    if not _shared(folder):
        with attempts.trying("its files could not be read"):
            sizes = {name: (folder / name).stat().st_size for name in names}
    attempts.agree()
    for source, files in enumerate(all_gather_object(sizes)):
        for name, size in files.items():
            if rank == source:
                _send(folder / name, size, attempts)
            elif rank == 0:
                _receive(folder / name, size, source, attempts)
    attempts.agree()


def hand_out(source: Path, target: Path, keeps: bool) -> None:
    """Copy the files of rank 0's folder `source` into the folder `target` of the ranks that keep
    them.

    Of ranks on one machine, which see the same `target`, only one keeps them.
    """
    rank, ranks = get_dist_info()
    if ranks == 1:
        return
    attempts = Attempts()
    sizes: list[dict[str, int]] = [{}]
    with attempts.trying(f"{source} could not be copied to other nodes"):
        if rank == 0:
            sizes = [{path.name: path.stat().st_size for path in sorted(source.iterdir())}]
        if keeps:
            target.mkdir(parents=True, exist_ok=True)
    attempts.agree()
    broadcast_object_list(sizes)
    for name, size in sizes[0].items():
        if keeps:
            with attempts.trying(f"{target} could not be written"):
                (target / name).write_bytes(b"")
        for offset in range(0, size, AT_ONCE):
            part = _empty(size - offset)
            if rank == 0:
                with attempts.trying(f"{source} could not be read"):
                    _read(source / name, offset, part)
            part = part.to(get_comm_device())
            torch.distributed.broadcast(part, 0)
            if keeps:
                with attempts.trying(f"{target} could not be written"):
                    _append(target / name, part)
    attempts.agree()


def _shared(folder: Path) -> bool:
    """Whether this rank sees the folder that rank 0 has at the same path.

    The name that it looks for is new: network file systems remember which names were not there.
    """
    rank, _ = get_dist_info()
    attempts, name = Attempts(), [f".shared-{uuid.uuid4().hex}"]
    broadcast_object_list(name)
    mark = folder / name[0]
    if rank == 0:
        with attempts.trying(f"{folder} could not be written"):
            folder.mkdir(parents=True, exist_ok=True)
            mark.touch()
    attempts.agree()
    seen = mark.exists()
    all_gather_object(seen)  # it stays until all have looked
    if rank == 0:
        with suppress(OSError):
            mark.unlink()
    return seen


def _send(path: Path, size: int, attempts: Attempts) -> None:
    for offset in range(0, size, AT_ONCE):
        part = _empty(size - offset)
        with attempts.trying(f"{path} could not be read"):
            _read(path, offset, part)
        torch.distributed.send(part.to(get_comm_device()), 0)


def _receive(path: Path, size: int, source: int, attempts: Attempts) -> None:
    beside = path.with_name(f".{path.name}.part")
    what = f"{path} could not be written"
    with attempts.trying(what):
        beside.write_bytes(b"")
    for offset in range(0, size, AT_ONCE):
        part = _empty(size - offset).to(get_comm_device())
        torch.distributed.recv(part, source)
        with attempts.trying(what):
            _append(beside, part)
    with attempts.trying(what):
        beside.replace(path)


def _empty(left: int) -> Tensor:
    """A part of what is left of a file, in bytes."""
    return torch.zeros(min(AT_ONCE, left), dtype=torch.uint8)


def _read(path: Path, offset: int, part: Tensor) -> None:
    with path.open("rb") as file:
        file.seek(offset)
        if file.readinto(part.numpy().data) != len(part):
            raise OSError(f"{path} became shorter while it was read")


def _append(path: Path, part: Tensor) -> None:
    with path.open("ab") as file:
        file.write(part.cpu().numpy().data)
