"""What a driver shows of a sweep: a table on a terminal, lines elsewhere."""

import io

import pytest
from rich.console import Console
from rich.text import Text

from bacl_platform.plan.sweep_plan import Preparation, plan_sweeps
from bacl_platform.plan.trials import SweepFile
from bacl_platform.run.progress import Progress, TrialProgress
from bacl_platform.spec.experiment import Resources
from bacl_platform.train.messages import Gathered, Lost
from bacl_platform.volume import Volume, set_volume

SWEEP = """
name: alphas
base: tiny.yaml
stage: heads
variant: bacl
space: {variant.alpha: [0.1, 0.2, 0.3, 0.4]}
"""
HEAD = "trial"


@pytest.fixture
def plan(tiny, store):
    """The plan of four trials in one bank, or of others where the sweep's text is changed so."""

    def planned(*changes, name="alphas"):
        text = SWEEP.replace("alphas", name)
        for old, new in changes:
            text = text.replace(old, new)
        path = tiny.parent / f"{name}.yaml"
        path.write_text(text)
        file = SweepFile(path)
        (found,) = plan_sweeps([file], [file.trials(store)], Preparation(store), store)
        return found

    return planned


@pytest.fixture
def terminal(monkeypatch):
    """Makes progress on a terminal of a size, and what reads off it what is shown."""
    monkeypatch.setenv("TERM", "xterm")  # a dumb one has no size and shows nothing live

    def made(width=100, height=25):
        file = io.StringIO()
        progress = TrialProgress(
            Console(file=file, force_terminal=True, width=width, height=height)
        )

        def screen():
            progress._live.refresh()  # as it does by itself four times a second
            newest = file.getvalue().split("\x1b[2K")[-1]
            return [line.rstrip() for line in Text.from_ansi(newest).plain.splitlines()]

        return progress, screen

    return made


def words(screen):
    """The rows of the table, by words; below the head."""
    lines = [line.split() for line in screen]
    (head,) = [number for number, line in enumerate(lines) if line and line[0] == HEAD]
    return lines[head + 1 :]


def test_table_has_the_best_first_and_what_became_of_each(plan, terminal):
    found = plan()
    heads = found.jobs[-1]
    first, second, third, fourth = (cell.key for cell in found.cells)
    names = list(heads.variant_keys)
    progress, screen = terminal()
    with progress:
        progress.add(found.cells)
        assert [line[1] for line in words(screen())] == ["waiting"] * 4
        progress.begin(heads, 0)
        losses = {f"{name}.loss_cls": 0.5 + place for place, name in enumerate(names)}
        progress.move(heads, [{"step": 10, "time": 20, "loss": 9.0, **losses}])
        progress.evaluated({first: {"step": 10, "AP": 0.1}, second: {"step": 10, "AP": 0.25}})
        progress.left([first], "stopped")
        progress.left([third], "failed")
        assert words(screen()) == [
            ["alpha=0.2", "running", "10/12", "25.0", "1.500", "40", "s"],
            ["alpha=0.1", "stopped", "10/12", "10.0", "0.500"],
            ["alpha=0.4", "running", "10/12", "3.500", "40", "s"],
            ["alpha=0.3", "failed", "10/12", "2.500"],
        ]
        progress.evaluated({fourth: {"step": 12, "AP": 0.3}})
        progress.end(heads, "done")
        assert [line[:3] for line in words(screen())] == [
            ["alpha=0.4", "done", "12/12"],
            ["alpha=0.2", "done", "12/12"],
            ["alpha=0.1", "stopped", "10/12"],
            ["alpha=0.3", "failed", "10/12"],
        ]


def test_less_may_be_better_and_of_another_metric(plan, terminal):
    found = plan()
    progress, screen = terminal()
    with progress:
        progress.add(found.cells, metric="AP_r", mode="min")
        scores = [0.3, 0.1, 0.2, 0.4]
        progress.evaluated(
            {c.key: {"step": 5, "AP": 0, "AP_r": s} for c, s in zip(found.cells, scores)}
        )
        shown = screen()
    assert [line[3] for line in words(shown)] == ["10.0", "20.0", "30.0", "40.0"]
    assert any(line.split() == [HEAD, "state", "step", "AP_r", "loss", "left"] for line in shown)


@pytest.mark.parametrize("height", [8, 14, 40])
def test_table_fits_the_terminal_and_counts_the_rest(plan, terminal, height):
    found = plan(("[0.1, 0.2, 0.3, 0.4]", str([n / 100 for n in range(20)])))
    heads = found.jobs[-1]
    progress, screen = terminal(width=60, height=height)
    with progress:
        progress.add(found.cells)
        progress.begin(heads, 0)
        progress.left([found.cells[19].key], "failed")
        progress.evaluated({found.cells[7].key: {"step": 5, "AP": 0.2}})
        shown = screen()
    assert len(shown) < height and all(len(line) <= 60 for line in shown)
    assert words(shown)[0][0] == "alpha=0.07"
    if height == 40:
        assert len(words(shown)) == 20
    else:
        more = 20 - (height - 4)  # an event, a bar, the head, and this line
        assert shown[-1] == f"... and {more} more: {more - 1} running, 1 failed"


def test_narrow_terminal_cuts_labels_alone(plan, terminal):
    found = plan(("alpha: [0.1, 0.2, 0.3, 0.4]", "hallucination: [{categories: 4, samples: 8}]"))
    progress, screen = terminal(width=50)
    with progress:
        progress.add(found.cells)
        progress.evaluated({found.cells[0].key: {"step": 5, "AP": 0.2}})
        (line,) = words(screen())
    assert line[0].startswith("hallucination=ca") and line[0].endswith("…")
    assert line[-3:] == ["waiting", "0/12", "20.0"]


def test_earlier_results_are_shown_and_earlier_ends_are_told_no_more(plan, terminal):
    found = plan()
    keys = [cell.key for cell in found.cells]
    told = io.StringIO()
    for progress, screen in [terminal(), (TrialProgress(Console(file=told)), None)]:
        with progress:
            progress.add(
                found.cells,
                results={keys[1]: {"AP": 0.4}},
                left={keys[0]: "stopped", keys[2]: "failed"},
            )
            progress.left([keys[0]], "stopped")
            if screen:
                assert [line[1:] for line in words(screen())] == [
                    ["done", "12/12", "40.0"],
                    ["waiting", "0/12"],
                    ["stopped", "0/12"],
                    ["failed", "0/12"],
                ]
    assert told.getvalue() == ""


@pytest.mark.parametrize("skipped", [False, True])
def test_trials_of_a_parent_that_failed_or_was_not_run_have_failed(plan, terminal, skipped):
    found = plan()
    progress, screen = terminal()
    with progress:
        progress.add(found.cells)
        if skipped:
            progress.skip(found.jobs[0])
        else:
            progress.end(found.jobs[0], "failed")
        assert [line[1] for line in words(screen())] == ["failed"] * 4


def test_rows_of_several_sweeps_and_seeds_say_which(plan, terminal):
    one, other = plan(), plan(("0.1, 0.2, 0.3, 0.4]}", "0.5]}\nseeds: [0, 1]"), name="more")
    progress, screen = terminal()
    with progress:
        progress.add(one.cells)
        progress.add(other.cells, metric="AP_f")
        progress.evaluated({other.cells[1].key: {"step": 5, "AP_f": 0.3}})
        rows = words(screen())
    assert rows[0] == ["more:", "alpha=0.5", "seed", "1", "waiting", "0/12", "AP_f", "30.0"]
    assert rows[1][:4] == ["alphas:", "alpha=0.1", "seed", "0"]


def test_without_a_terminal_each_event_is_a_line(plan):
    found = plan()
    heads = found.jobs[-1]
    keys = [cell.key for cell in found.cells]
    file = io.StringIO()
    with TrialProgress(Console(file=file)) as progress:
        progress.add(found.cells)
        progress.begin(heads, 0)
        progress.evaluated({keys[0]: {"step": 5, "AP": 0.123}, keys[1]: {"step": 5}})
        for _ in range(2):  # whoever asks the trials' state again is told the same
            progress.left(keys[:1], "stopped")
        progress.end(heads, "done")
    assert file.getvalue().splitlines() == [
        "heads: started",
        "alpha=0.1 seed 0: AP 12.3 at step 5",
        "alpha=0.2 seed 0: evaluated at step 5",
        "alpha=0.1 seed 0: stopped",
        "heads: done",
    ]


@pytest.mark.parametrize("chosen", [Volume.NORMAL, Volume.VERBOSE])
def test_step_of_a_checkpoint_is_told_once_and_others_with_verbose(plan, chosen):
    (job,) = [job for job in plan().jobs if job.stage == "heads"]
    file = io.StringIO()
    set_volume(chosen)
    try:
        with Progress(Console(file=file)) as progress:
            for step in (5, 10):
                progress.move(job, [{"step": step, "loss": 1.0, "time": 0.0}])
            progress.checkpoint(job, 10)
    finally:
        set_volume(Volume.NORMAL)
    steps = [5, 10] if chosen is Volume.VERBOSE else [10]
    total = job.iterations
    expected = [f"heads: step {step}/{total}, loss 1.000, 0 s left" for step in steps]
    assert file.getvalue().splitlines() == expected


def test_what_a_job_waits_for_is_told_once_and_again_after_it_began(plan):
    (job,) = [job for job in plan().jobs if job.stage == "heads"]
    file = io.StringIO()
    progress = TrialProgress(Console(file=file, width=100))
    for free in (0, 1):
        progress.wait(job, f"waiting for 2 CPU, {free} free")
    progress.begin(job, 0)
    progress.wait(job, "waiting for 2 CPU, 0 free")
    lines = [line for line in file.getvalue().splitlines() if "waiting" in line]
    assert lines == ["heads: waiting for 2 CPU, 0 free"] * 2


def test_terminal_shows_what_a_job_waits_for_now(plan, terminal):
    (job,) = [job for job in plan().jobs if job.stage == "heads"]
    progress, screen = terminal()
    with progress:
        progress.add(plan().cells)
        progress.wait(job, "waiting for 2 CPU, 0 free")
        progress.wait(job, "waiting for 2 CPU, 1 free")
        shown = "\n".join(screen())
        assert "2 CPU, 1 free" in shown and "0 free" not in shown
        progress.begin(job, 0)
        assert "free" not in "\n".join(screen())


def test_interruptions_are_told_with_what_they_cost_and_in_all_at_the_end(planned):
    fixed = planned().jobs[0]
    ranged = fixed.model_copy(update={"resources": Resources(workers=(2, 8)), "name": "ranged"})
    file = io.StringIO()
    with Progress(Console(file=file, width=200)) as progress:
        for job in (fixed, ranged):
            progress.gather(job, Gathered(job.key, 0, 2))
            progress.gather(job, Gathered(job.key, 4, 2, Lost(1, 2.0, 10.0)))
            progress.gather(job, Gathered(job.key, 8, 2, Lost(0, 0.0, 5.0)))
            progress.end(job, "done")
            progress.end(job, "done")
    cost = "1 step trained again (2 s), 10 s without training"
    little = "0 steps trained again, 5 s without training"
    assert file.getvalue().splitlines() == [
        f"features: after an interruption: {cost}",
        f"features: after an interruption: {little}",
        "features: done, after 2 interruptions: 1 step trained again (2 s), 15 s without training",
        "features: done",
        "ranged: 2 of 2-8 workers",
        f"ranged: 2 of 2-8 workers, after an interruption: {cost}",
        f"ranged: 2 of 2-8 workers, after an interruption: {little}",
        "ranged: done, after 2 interruptions: 1 step trained again (2 s), 15 s without training",
        "ranged: done",
    ]
