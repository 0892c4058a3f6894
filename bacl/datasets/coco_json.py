"""LVIS's and COCO's JSON in."""

import json
from pathlib import Path
from typing import Any

from bacl.datasets import segmentations
from bacl.errors import UsageError


def read(path: Path) -> Any:
    """What a JSON file holds, with its polygons as arrays.

    Raises UsageError where it is no JSON, with the place.
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
