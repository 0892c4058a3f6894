"""Files of other kinds than a command wants: told what they are, and what takes them."""

import json

import pytest

from bacl.errors import UsageError
from bacl_platform.spec.other_files import kind_of, refuse
from bacl_platform.spec.yaml_files import read_yaml


@pytest.fixture
def files(tmp_path):
    (tmp_path / "weights.pth").write_bytes(b"PK")
    (tmp_path / "photo.JPG").write_bytes(b"\xff\xd8")
    (tmp_path / "clip.mp4").write_bytes(b"")
    (tmp_path / "found.parquet").write_bytes(b"PAR1")
    (tmp_path / "found.json").write_text(' [{"image_id": 1}]')
    (tmp_path / "train.json").write_text('{"images": [], "annotations": []}')
    (tmp_path / "large.json").write_text(json.dumps({"info": "x" * 2**20}))
    (tmp_path / "mine.json").write_text('{"name": "an experiment is YAML, and JSON is"}')
    (tmp_path / "mine.yaml").write_text("name: mine")
    (tmp_path / "search.yml").write_text("space: {}")
    (tmp_path / "broken.yaml").write_text("a: [")
    (tmp_path / "out").mkdir()
    (tmp_path / "variant").mkdir()
    for name in ("checkpoint.pth", "config.py"):
        (tmp_path / "variant" / name).write_text("")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("weights.pth", "a checkpoint"),
        ("photo.JPG", "an image"),
        ("clip.mp4", "a video"),
        ("found.parquet", "a results file"),
        ("found.json", "a results file"),
        ("train.json", "an annotation file"),
        ("large.json", "an annotation file"),
        ("mine.json", None),
        ("mine.yaml", "an experiment"),
        ("search.yml", "a sweep"),
        ("broken.yaml", None),
        ("out", None),
        ("variant", "an exported variant"),
        ("nowhere.pth", None),
    ],
)
def test_kind_is_told_by_ending_and_content(files, name, kind):
    assert kind_of(files / name) == kind


def test_wrong_kind_is_refused_with_the_command_that_takes_it(files):
    path = files / "search.yml"
    with pytest.raises(UsageError) as told:
        refuse(path, "an image", "an image", "a video")
    assert str(told.value) == (
        f"{path}: expected an image, got a sweep: `bacl sweep {path}` runs it, `bacl report "
        f"{path}` judges it"
    )
    refuse(path, "a sweep", "a sweep")
    refuse(files / "nowhere.pth", "an image", "an image")


def test_experiment_that_is_a_results_file_is_sent_to_evaluate(files):
    with pytest.raises(UsageError, match=r"got a results file: `bacl evaluate .*found\.json"):
        read_yaml(files / "found.json")
    assert read_yaml(files / "mine.json")["name"]
