"""`make gpu` on a CPU: all of it at small sizes, and runs that are cut short or cannot begin."""

import json
import subprocess
import sys
from pathlib import Path

import page
import prove
import pytest
import torch

PROVE = Path(prove.__file__)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_all_parts_run_small_on_a_cpu(tmp_path):
    command = [sys.executable, str(PROVE), "--device", "cpu", "--small", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=390)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = tmp_path.glob("*.json")
    found = json.loads(path.read_text())
    assert list(found["parts"]) == list(prove.PARTS)
    assert found["parts"]["right"]["tests"]["passed"] > 5
    assert found["parts"]["waits"]["step"]
    rows = list(page._rows(found["parts"]["fast"]))
    assert len(rows) > 8 and all(row["ours"] > 0 for row in rows)
    measured = {
        part: {row["name"] for row in page._rows(found["parts"][part])}
        for part in ("trunk", "benches", "loading")
    }
    assert {"trunk_bfloat16", "trunk_channels_last_away", "replay_8"} <= measured["trunk"]
    assert {"reduce_1", "reduce_1_time"} <= measured["benches"]
    assert {"loading_multi_scale_2", "loading_decode_torchvision"} <= measured["loading"]
    assert (tmp_path / path.stem / found["parts"]["fast"]["profile"]["trace"]).stat().st_size > 0
    assert "## " in page.text(tmp_path)


def proof(monkeypatch, tmp_path, script, **limits):
    """A run of the parts `right` and `waits`, in which each part's process runs `script`."""
    stand_in = tmp_path / "part.py"
    stand_in.write_text(
        f"import json, os, sys, time\ninto = sys.argv[8]\npart = sys.argv[4]\n{script}"
    )
    monkeypatch.setattr(prove, "__file__", str(stand_in))
    for name, value in limits.items():
        monkeypatch.setattr(prove, name, value)
    return prove.prove("cpu", False, tmp_path / "out", ["right", "waits"])


WRITTEN = "json.dump({'generator_us': 3}, open(into, 'w'))"


def test_part_whose_time_is_over_keeps_what_it_found(monkeypatch, tmp_path):
    script = f"if part == 'waits': {WRITTEN}; time.sleep(60)"
    found = proof(monkeypatch, tmp_path, script, PARTS={"right": 20, "waits": 2}, LEAST=1)
    assert found["parts"]["waits"]["generator_us"] == 3
    assert found["parts"]["waits"]["left_out"] == "what was not done after 2 s"
    assert found["parts"]["waits"]["seconds"] < 10


def test_part_whose_process_dies_is_told_and_the_next_one_runs(monkeypatch, tmp_path):
    script = f"os.abort() if part == 'right' else {WRITTEN}"
    found = proof(monkeypatch, tmp_path, script)
    assert found["parts"]["right"]["left_out"] == "what came after its process ended with code -6"
    assert found["parts"]["waits"]["generator_us"] == 3
    (path,) = (tmp_path / "out").glob("*.json")
    assert json.loads(path.read_text()) == found


def test_parts_are_left_out_once_the_whole_time_is_over(monkeypatch, tmp_path):
    found = proof(monkeypatch, tmp_path, "time.sleep(1)", WHOLE=3, LEAST=2.5)
    assert found["parts"]["waits"] == {"left_out": "all, as the 3 s of the proof were over"}


def test_error_of_a_part_is_told_beside_what_came_before(monkeypatch, tmp_path):
    def failing(*arguments):
        yield {"float32": []}
        raise ValueError("a line\nand another")

    monkeypatch.setattr(prove, "pieces", failing)
    into = tmp_path / "pieces.json"
    prove.work("fast", "cpu", True, tmp_path, into)
    expected = {"float32": [], "left_out": "what came after ValueError: a line"}
    assert json.loads(into.read_text()) == expected


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.slow
def test_machine_without_a_gpu_is_told_what_to_do(tmp_path):
    command = [sys.executable, str(PROVE), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=120)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"expected a GPU, torch {torch.__version__} (built for CUDA {torch.version.cuda}) finds "
        "none: run this on a machine with one, or at small sizes on this CPU with "
        "`--device cpu --small`."
    ).replace("built for CUDA None", "built without CUDA")
    assert not (tmp_path / "out").exists()


def test_result_is_named_by_commit_and_says_where_files_differ(tmp_path, monkeypatch):
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@example.com"]
    monkeypatch.setattr(prove, "ROOT", tmp_path)
    assert prove.commit() == "unknown"
    (tmp_path / "file").write_text("1")
    for arguments in (["init", "-q"], ["add", "file"], ["commit", "-qm", "x"]):
        subprocess.run([*git, *arguments], check=True, timeout=30)
    clean = prove.commit()
    assert len(clean) >= 7 and "-" not in clean
    (tmp_path / "file").write_text("2")
    assert prove.commit() == f"{clean}-changed"
