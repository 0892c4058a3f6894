"""Where the driver and its jobs leave each other messages."""

import time
from dataclasses import replace

from bacl_platform.train.messages import Gathered, Message, Reached


class Mailbox:
    """Messages of jobs to the driver, and requests to them. A Ray actor.

    Not a file in the store: network file systems show a new file to other nodes up to a minute
    late, and a driver that was asked to end has less than that.
    """

    def __init__(self) -> None:
        self._messages: list[Message] = []
        self._stop = False
        self._places: dict[tuple[str, int], tuple[str, int]] = {}
        self._given_up: dict[str, str] = {}
        self._moves: dict[str, str] = {}
        self._reached: dict[str, tuple[Reached, float]] = {}
        """What was last reached by each job, by its key, and when."""
        self._first: dict[str, float] = {}
        """When each attempt was first seen to train."""

    def give_up(self, attempt: str, sentence: str) -> None:
        """Note that a rank has failed as it would fail again, so that the job is not restarted."""
        self._given_up[attempt] = sentence

    def given_up(self, attempt: str) -> str | None:
        """Why an attempt was given up; None where it was not."""
        return self._given_up.get(attempt)

    def place(self, key: str, rank: int, node: str, process: int) -> None:
        """Note where a rank of a job runs: node and process id."""
        self._places[key, rank] = (node, process)

    def placed(self, key: str, rank: int) -> tuple[str, int] | None:
        """Node and process id of a rank of a job; None before it has started."""
        return self._places.get((key, rank))

    def tell(self, message: Message) -> None:
        """Leave a message of a job for the driver."""
        self._messages.append(message)
        if isinstance(message, Gathered) and message.key in self._reached:
            reached, _ = self._reached[message.key]  # what lay before is told
            self._reached[message.key] = (replace(reached, step=message.step), time.time())

    def drain(self) -> list[Message]:
        """The messages of jobs since the last call, which are removed."""
        messages, self._messages = self._messages, []
        return messages

    def ask_to_stop(self) -> None:
        """Ask all jobs to write a checkpoint and end."""
        self._stop = True

    def asked_to_stop(self) -> bool:
        """Whether jobs have been asked to end."""
        return self._stop

    def start(self, attempt: str) -> None:
        """Note that the workers of an attempt start, perhaps again: what the ones before were asked
        for is done."""
        self._moves.pop(attempt, None)
        self._first.pop(attempt, None)

    def ask_to_move(self, attempt: str, why: str) -> None:
        """Ask an attempt to write a checkpoint and end, so that its job is started again."""
        self._moves.setdefault(attempt, why)

    def asked_to_move(self, key: str, attempt: str, reached: Reached) -> str | None:
        """Why an attempt at a job, which tells how far it is, should end; None where it should
        not."""
        now = time.time()
        self._reached[key] = (reached, now)
        self._first.setdefault(attempt, now)
        return self._moves.get(attempt)

    def reached(self, key: str) -> tuple[Reached, float] | None:
        """How far a job was when it was last seen to train, and the seconds since; None before."""
        if key not in self._reached:
            return None
        reached, when = self._reached[key]
        return reached, time.time() - when

    def training_since(self, attempt: str) -> float | None:
        """When an attempt was first seen to train, in seconds since 1970; None before."""
        return self._first.get(attempt)
