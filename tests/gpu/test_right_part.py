"""What `right` tells of tests that fail or hang, and what it does without."""

import json
import subprocess
import sys

import pytest
import right

FAILING = """
import os
import pytest

@pytest.mark.gpu
def test_good():
    assert os.environ["BACL_DEVICE"] == "cpu"

@pytest.mark.gpu
def test_bad():
    raise ValueError("wrong by far\\nsecond line")

@pytest.mark.gpu
def test_skipped():
    pytest.skip("lacks a thing")

def test_unmarked():
    raise AssertionError
"""
HANGING = """
import time
import pytest

@pytest.mark.gpu
def test_hangs():
    time.sleep(60)
"""
WITHOUT_THE_PLATFORMS_SERVICES = """
import sys
for name in ("ray", "mlflow", "boto3", "optuna"):
    sys.modules[name] = None
sys.path.insert(0, "tests/gpu")
from pathlib import Path
import right
result = right.trained("cpu", True, Path(sys.argv[1]))
assert result["error"] is None, result
assert set(result["table"]) == {"representation", "bacl", "fcbl", "bce", "softmax"}, result
assert all(set(row) == set(right.METRICS) for row in result["table"].values()), result
"""


def run(tmp_path, content, seconds):
    path = tmp_path / "test_made.py"
    path.write_text(content)
    # pytest's settings are the checkout's, in which the marker is known
    paths = ["-c", right.ROOT / "pyproject.toml", path]
    found = right.run_tests(paths, "cpu", tmp_path, seconds)
    return json.loads(json.dumps(found))


def test_failing_test_is_told_with_its_first_line(tmp_path):
    found = run(tmp_path, FAILING, 60)
    assert (found["passed"], found["failed"], found["skipped"]) == (1, 1, 1)
    (failure,) = found["failures"]
    assert failure["test"].endswith("::test_bad")
    assert failure["error"] == "ValueError: wrong by far"
    assert found["skips"] == ["lacks a thing"]
    assert found["error"] is None and found["seconds"] > 0


@pytest.mark.slow
def test_hanging_test_is_ended_and_told(tmp_path):
    found = run(tmp_path, HANGING, 5)
    assert found["error"] == "the tests were ended after 5 seconds"
    assert found["passed"] == 0 and found["seconds"] < 30


def test_run_of_nothing_is_told(tmp_path):
    found = run(tmp_path, "def test_unmarked(): pass", 60)
    assert found["error"] == "no test ran: pytest ended with code 5"


@pytest.mark.slow
def test_jobs_need_none_of_the_platforms_services(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_THE_PLATFORMS_SERVICES, str(tmp_path)],
        cwd=right.ROOT,
        env=right.environment("cpu"),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
