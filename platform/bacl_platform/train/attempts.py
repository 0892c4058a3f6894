"""Starts of a job's workers, of which there are several where machines come and go.

Where a machine is reclaimed, or there is room for more workers, all ranks write a checkpoint and
end; the workers are then started again, elsewhere or in another number, and go on from there.
"""

import time
from collections.abc import Callable

from mmengine.dist import get_world_size

from bacl_platform.train.messages import Gathered, Lost, Reached, Tell
from bacl_platform.train.ranks import Agreed, together


class Interrupted(Agreed):
    """Training ended at a checkpoint because the driver asked for it."""


class Moving(Interrupted):
    """Training ended at a checkpoint so that the job's workers are started again.

    step: of the checkpoint. why: what the start is for, in words.
    """

    def __init__(self, name: str, step: int, why: str) -> None:
        super().__init__(f"job {name} stopped at step {step} for another start of its workers")
        self.step, self.why = step, why


class Attempt:
    """One start of a job's workers.

    asked_to_move: called every few seconds on rank 0 with what has been reached; returns, in words,
    why the workers should be started again, else None. before: where an attempt before was last
    seen, and the seconds since then; None for the first.
    """

    def __init__(
        self,
        asked_to_move: Callable[[Reached], str | None] = lambda reached: None,
        before: tuple[Reached, float] | None = None,
    ) -> None:
        self.asked_to_move, self._before = asked_to_move, before
        self._began = time.monotonic()

    def start(self, key: str, step: int, tell: Tell) -> Lost | None:
        """Tell, on rank 0, with how many workers a job goes on from a step, and return what the
        interruption before it has cost."""
        lost = None
        if self._before is not None:
            reached, ago = self._before
            again = max(reached.step - step, 0)
            lost = Lost(again, again * reached.pace, ago + time.monotonic() - self._began)
        tell(Gathered(key, step, get_world_size(), lost))
        return lost

    def check(self, name: str, reached: Callable[[], Reached]) -> None:
        """Raise Moving, on all ranks, where the workers should be started again.

        For jobs that need no checkpoint to go on from where they are. reached: called on rank 0.
        """

        def look() -> tuple[int, str | None]:
            found = reached()
            return found.step, self.asked_to_move(found)

        step, why = together(look)
        if why is not None:
            raise Moving(name, step, why)
