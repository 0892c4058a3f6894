"""Reader of LVIS's and COCO's JSON."""

import json
from pathlib import Path
from typing import Any

from bacl.datasets import segmentations
from bacl.errors import UsageError


def read(path: Path) -> Any:
    """The content of a JSON file, with its polygons as arrays.

    Raises UsageError, with line and column, where the file is not JSON.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            return json.load(file, object_hook=segmentations.compact)
    except json.JSONDecodeError as error:
        raise UsageError(
            f"{path}: line {error.lineno}, column {error.colno}: expected JSON, got: {error.msg}"
        ) from None
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path}: expected JSON, got bytes that are no text ({error.reason})"
        ) from None
    except RecursionError as error:  # nested too deeply
        raise ValueError(error) from None
