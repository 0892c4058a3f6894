"""Where the driver and its jobs leave each other messages."""

from bacl_platform.train.messages import Message


class Mailbox:
    """Messages of jobs to the driver, and its requests to them. A Ray actor.

    Not a file in the store: network file systems show a new file to other nodes up to a minute
    late, and a driver that was asked to end has less than that.
    """

    def __init__(self) -> None:
        self._messages: list[Message] = []
        self._stop = False
        self._places: dict[tuple[str, int], tuple[str, int]] = {}
        self._given_up: dict[str, str] = {}

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
