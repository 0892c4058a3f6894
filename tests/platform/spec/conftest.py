"""What tests of files share."""

from collections.abc import Callable
from pathlib import Path

import pytest

from bacl.errors import UsageError
from bacl_platform.spec.load import load


@pytest.fixture
def problems() -> Callable[..., list[str]]:
    """What loading a file with some overrides says is wrong, without the file's path."""

    def told(path: Path, *overrides: str) -> list[str]:
        with pytest.raises(UsageError) as raised:
            load(path, list(overrides))
        lines = str(raised.value).splitlines()
        assert all(line.startswith(f"{path}: ") for line in lines)
        return [line.removeprefix(f"{path}: ") for line in lines]

    return told
