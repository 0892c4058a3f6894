"""What the store remembers of a sweep's trials."""

from bacl_platform.plan.sweep_memory import Notes
from bacl_platform.plan.sweep_plan import Preparation, plan_sweeps
from bacl_platform.plan.trials import SweepFile

SWEEP = """
name: noted
base: tiny.yaml
stage: heads
variant: bacl
space: {variant.alpha: [%s]}
"""


def test_note_of_a_trial_that_was_proposed_meanwhile_is_found_by_the_next_run(tiny, store):
    def planned(alphas):
        path = tiny.with_name("noted.yaml")
        path.write_text(SWEEP % alphas)
        file = SweepFile(path)
        return plan_sweeps([file], [file.trials(store)], Preparation(store), store)[0]

    before, after = planned("0.1"), planned("0.1, 0.2")
    (proposed,) = [cell for cell in after.cells if cell.key not in {c.key for c in before.cells}]
    told = {proposed.key: "stopped by the scheduler", "another sweep's": "stopped"}
    Notes(before, store, "stopped", after.cells).write(told)
    assert Notes(after, store, "stopped").read() == {proposed.key: told[proposed.key]}
