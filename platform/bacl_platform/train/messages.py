"""What a job's ranks are given to speak with the driver."""

from collections.abc import Callable, Collection
from typing import Any

Tell = Callable[[str, str, Any], None]

Report = Callable[[dict[str, Any]], None]

Stopped = Callable[[int], Collection[str]]

Asked = Callable[[], bool]
