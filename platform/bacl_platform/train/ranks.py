"""What the ranks of a job do together: go on, or stop with the same sentence."""

from collections.abc import Callable
from typing import Any

from mmengine.dist import broadcast_object_list, is_main_process

from bacl.errors import BaclError, RunError


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
