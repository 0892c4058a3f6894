"""The journal of predictions: what counts as done after an interruption, and what does not."""

import json

import pytest

from bacl.errors import RunError
from bacl_platform.tools.journal import JOURNAL, Journal

KEY = {"checkpoint": "a", "score_threshold": 0.3}


def filled(folder, *names, key=KEY):
    with Journal.opened(folder, key) as journal:
        for name in names:
            (folder / f"{name}.png").write_text("picture")
            journal.add(name, [1, 2], f"{name}.png", len(name), {"detections": [name]})


def test_entries_are_there_in_the_next_process(tmp_path):
    filled(tmp_path, "a", "bb")
    filled(tmp_path, "c")
    with Journal.opened(tmp_path, KEY) as journal:
        assert not journal.begun_anew
        for name in ("a", "bb", "c"):
            assert journal.holds(name, [1, 2], f"{name}.png")
            assert journal[name]["detections"] == [name]
            assert journal.objects(name) == len(name)
        assert not journal.holds("d", [1, 2], None)


def test_changed_input_and_lost_picture_are_not_done(tmp_path):
    filled(tmp_path, "a", "b")
    (tmp_path / "b.png").unlink()
    with Journal.opened(tmp_path, KEY) as journal:
        assert not journal.holds("a", [1, 3], "a.png")
        assert not journal.holds("a", [1, 2], "other.png")
        assert not journal.holds("b", [1, 2], "b.png")
        assert journal.holds("b", [1, 2], None)  # no picture is wanted
        journal.add("b", [1, 2], None, 0, {})
        assert not journal.holds("b", [1, 2], "b.png")


def test_picture_that_another_input_has_overwritten_is_not_done(tmp_path):
    filled(tmp_path, "a")
    with Journal.opened(tmp_path, KEY) as journal:
        journal.add("other/a", [1, 2], "a.png", 0, {})
        assert not journal.holds("a", [1, 2], "a.png")
    with Journal.opened(tmp_path, KEY) as journal:
        assert not journal.holds("a", [1, 2], "a.png")
        assert journal.holds("other/a", [1, 2], "a.png")


@pytest.mark.parametrize("torn", [b'{"name": "c", "sta', b'{"name": "c"}', b"\0\0\0\n"])
def test_line_that_a_killed_process_has_not_finished_is_dropped(tmp_path, torn):
    filled(tmp_path, "a", "b")
    with (tmp_path / JOURNAL).open("ab") as file:
        file.write(torn)
    filled(tmp_path, "d")
    lines = (tmp_path / JOURNAL).read_text().splitlines()
    assert [json.loads(line).get("name") for line in lines] == [None, "a", "b", "d"]


def test_what_another_detector_has_made_does_not_count(tmp_path):
    filled(tmp_path, "a")
    with Journal.opened(tmp_path, {**KEY, "checkpoint": "b"}) as journal:
        assert journal.begun_anew
        assert not journal.holds("a", [1, 2], "a.png")
    with Journal.opened(tmp_path, {**KEY, "checkpoint": "b"}) as journal:
        assert not journal.begun_anew


def test_two_processes_do_not_write_at_a_time(tmp_path):
    with (
        Journal.opened(tmp_path, KEY),
        pytest.raises(RunError, match=r"another process is writing there"),
        Journal.opened(tmp_path, KEY),
    ):
        raise AssertionError("opened twice")
