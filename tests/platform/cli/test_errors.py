"""Errors of commands: the sentence and the exit code."""

import errno
import os

import pytest
import typer

from bacl_platform.cli import errors


@pytest.mark.parametrize("place", [None, "/full/file"])
def test_full_disk_is_told_wherever_it_is_met(capsys, place):
    with pytest.raises(typer.Exit) as ended, errors.report_errors(debug=False):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), place)
    assert ended.value.exit_code == 1
    told = capsys.readouterr().err
    assert f"error: no space left for {place or 'the store'}: free some" in told
