"""Where the driver and its jobs leave each other messages."""

from bacl_platform.train.messages import Message


class Mailbox:
    """What jobs tell the driver, and what it asks of them. A Ray actor.

    Not a file in the store: network file systems show a new file to other nodes up to a minute
    late, and a driver that was asked to end has less than that.
    """

    def __init__(self) -> None:
        self._told: list[Message] = []
        self._stop = False
        self._places: dict[tuple[str, int], tuple[str, int]] = {}
        self._given_up: dict[str, str] = {}

    def give_up(self, attempt: str, sentence: str) -> None:
        """A rank of a job has failed as it would again: none shall be started anew."""
        self._given_up[attempt] = sentence

    def given_up(self, attempt: str) -> str | None:
        """What that rank told, if one did."""
        return self._given_up.get(attempt)

    def place(self, key: str, rank: int, node: str, process: int) -> None:
        """Where a rank of a job is: node and process id."""
        self._places[key, rank] = (node, process)

    def placed(self, key: str, rank: int) -> tuple[str, int] | None:
        """Where a rank of a job said it is."""
        return self._places.get((key, rank))

    def tell(self, message: Message) -> None:
        """A job has something to say."""
        self._told.append(message)

    def told(self) -> list[Message]:
        """What jobs said since the last call."""
        told, self._told = self._told, []
        return told

    def ask_to_stop(self) -> None:
        """All jobs shall write a checkpoint and end."""
        self._stop = True

    def asked_to_stop(self) -> bool:
        """Whether jobs shall end."""
        return self._stop
