"""`bacl doctor` reports what works, what is missing and what is broken, by using it."""

import subprocess
import sys
import time

import pytest

from bacl_platform.tools import doctor


def found(checks, name):
    return next(check for check in checks if check.name == name)


@pytest.fixture
def without_processes(monkeypatch):
    """Leave out the parts that take long; they have tests of their own."""
    for probe in ("_evaluation", "_tracking", "_ray", "_detectors"):
        monkeypatch.setattr(doctor, probe, lambda: "left out")


def test_doctor_finds_this_machine_fit(without_processes, tmp_path, capsys):
    store = tmp_path / "store"

    assert doctor.run(store) == 0

    printed = capsys.readouterr().out
    assert "The main job can run here." in printed
    assert "failed" not in printed
    assert not store.exists()


def test_operators_are_used_and_their_backing_is_named(without_processes, tmp_path):
    check = found(doctor.check(tmp_path), "operators")
    assert check.state == "ok"
    assert "torchvision" in check.detail or "mmcv" in check.detail


def test_broken_part_is_reported_with_what_to_do(without_processes, monkeypatch, tmp_path, capsys):
    def broken():
        raise ImportError("libGL.so.1: cannot open shared object file [dso]")

    monkeypatch.setattr(doctor, "_opencv", broken)

    assert doctor.run(tmp_path) == 1

    printed = " ".join(capsys.readouterr().out.split())
    assert "failed" in printed and "libGL.so.1" in printed and "[dso]" in printed
    assert "The main job cannot run here: opencv failed." in printed


def test_wrong_result_of_an_operator_is_a_failure(without_processes, monkeypatch, tmp_path):
    import mmcv.ops
    import torch

    monkeypatch.setattr(mmcv.ops, "nms", lambda *args: (None, torch.arange(3)))
    check = found(doctor.check(tmp_path), "operators")
    assert check.state == "failed"
    assert "NMS kept boxes [0, 1, 2]" in check.detail and "pip install" in check.detail


def test_missing_optional_part_says_what_it_is_for(
    without_processes, monkeypatch, tmp_path, capsys
):
    monkeypatch.setitem(sys.modules, "optuna", None)

    checks = doctor.check(tmp_path)

    assert found(checks, "optuna").state == "optional, missing"
    assert "sweeps" in found(checks, "optuna").detail
    assert doctor.report(checks) == 0


def test_missing_required_package_is_a_failure(without_processes, monkeypatch, tmp_path):
    def version(name):
        if name == "onedl-mmcv":
            raise doctor.PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(doctor, "version", version)
    check = found(doctor.check(tmp_path), "mmcv")
    assert check.state == "failed" and "onedl-mmcv is not installed" in check.detail


def test_store_in_place_of_a_file_is_a_failure(without_processes, tmp_path, capsys):
    file = tmp_path / "store"
    file.write_text("not a folder")
    assert doctor.run(file) == 1
    assert "--store" in " ".join(capsys.readouterr().out.split())


def test_full_disk_is_a_failure(without_processes, monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "LEAST_FREE", 2**80)
    check = found(doctor.check(tmp_path), "store")
    assert check.state == "failed" and "GiB free, needed" in check.detail


def test_store_in_a_bucket_is_tried(without_processes, url):
    check = found(doctor.check(url), "store")
    assert check.state == "ok" and check.detail.startswith(f"{url}: writable, cache in ")
    check = found(doctor.check("s3://no-such-bucket/x"), "store")
    assert check.state == "failed" and "NoSuchBucket" in check.detail


def test_evaluation_of_the_example_is_right():
    assert "right" in doctor._evaluation()


def test_crash_in_a_process_is_told_in_its_last_line():
    with pytest.raises(RuntimeError, match=r"^ValueError: no such thing$"):
        doctor._in_process("raise ValueError('no such thing')")


@pytest.mark.slow
def test_process_that_hangs_is_ended_with_what_it_started(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "SECONDS", 2.0)
    mark = tmp_path / "alive"
    child = f"import time; time.sleep(6); open({str(mark)!r}, 'w')"
    script = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"

    start = time.monotonic()
    with pytest.raises(RuntimeError, match="no answer within 2 s"):
        doctor._in_process(script)
    assert time.monotonic() - start < 5

    time.sleep(max(0.0, start + 7 - time.monotonic()))
    assert not mark.exists()


def test_importing_the_doctor_imports_nothing_heavy():
    script = (
        "import sys, bacl_platform.tools.doctor; "
        "print({'torch', 'ray', 'mlflow', 'mmcv', 'cv2'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "set()"


@pytest.mark.slow
def test_tracking_is_used(tmp_path):
    assert "read back" in doctor._tracking()


@pytest.mark.slow
def test_detectors_register():
    assert "registered" in doctor._detectors()


@pytest.mark.ray
def test_local_ray_runs_a_task():
    assert "ran a task" in doctor._ray()
