"""What is not told yet, in order, and across drivers."""

from bacl_platform.tracking.outbox import Event, Outbox


def kinds(events):
    return [(event.kind, event.content) for event in events]


def test_rows_are_told_together_and_in_order_with_the_rest(planned, store):
    job = planned().jobs[0]
    box = Outbox(store.root, "plan")
    given = [("start", None), ("log", [1]), ("log", [2]), ("finish", False), ("log", [3])]
    for kind, content in given:
        box.put(Event(kind, job, content))
    box.close()
    parts = []
    while events := box.oldest():
        parts.append(kinds(events))
        box.forget(events)
    assert parts == [given[:1], given[1:3], given[3:4], given[4:]]
    assert box.release() == 0
    assert list(store.root.glob("plan*")) == []


def test_next_driver_takes_over_what_a_dead_one_left_and_only_its_own(planned, store):
    job, other = planned().jobs
    dead, alive, elsewhere = (Outbox(store.root, name) for name in ("plan", "plan", "other"))
    dead.put(Event("log", job, [{"step": 1}], at=5))
    dead.put(Event("start", job))
    dead.put(Event("fail", other, ["it broke", None], at=6))
    alive.put(Event("log", job, [{"step": 2}]))
    elsewhere.put(Event("log", job, [{"step": 3}]))
    assert dead.release() == 3
    with dead.path.open("a") as file:
        file.write('{"kind": "log", "key')  # it was killed in the middle of a line
    box = Outbox(store.root, "plan")
    (first,) = box.oldest()
    assert (first.job.key, first.content, first.at) == (job.key, [{"step": 1}], 5)
    box.forget([first])
    (second,) = box.oldest()
    assert (second.job.key, second.content, second.at) == (other.key, ["it broke", None], 6)
    assert not dead.path.exists() and alive.path.exists() and elsewhere.path.exists()
    for each in (box, alive, elsewhere):
        each.release()


def test_file_is_empty_once_all_is_told(planned, store):
    job = planned().jobs[0]
    box = Outbox(store.root, "plan")
    for step in (1, 2):
        box.put(Event("log", job, [{"step": step}]))
        assert box.path.read_text().count("\n") == 2  # the job, its row
        box.forget(box.oldest())
        assert box.path.read_text() == ""
    box.release()
