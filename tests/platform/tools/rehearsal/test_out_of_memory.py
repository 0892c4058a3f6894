"""A GPU that is too small, acted by what stands for Ray's jobs: half of the images are tried."""

import pytest

from bacl_platform.tools.rehearsal.jobs import WARM_UP, WORST, some_of
from bacl_platform.tools.rehearsal.rehearse import _Rehearsal
from bacl_platform.tools.rehearsal.scratch import scratch

GIB = 2**30
NODES = [{"Alive": True, "Resources": {"CPU": 2.0}}]
OUT = "job x failed: OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB"


class Acted:
    """Jobs that fail with more images in a rank's memory than fit its GPU: 2 GiB before it sees
    any, and 1.5 GiB for each."""

    def __init__(self, room, rehearsal):
        self.room, self.rehearsal = room, rehearsal
        self.running, self.failures, self.failed_variants = {}, {}, {}
        self.progress = self
        self.tried = []

    def say(self, text):
        pass

    def submit(self, job):
        images = job.config["train_dataloader"]["batch_size"] // job.recipe.accumulate
        self.tried.append(images)
        if 2 + 1.5 * images > self.room:
            self.failures[job.key] = f"{OUT}; its last log lines: bacl logs {job.key}"
            return
        steps = WORST + WARM_UP + 4
        laps = {"training": 1.0, "evaluating": 5.0, "evaluated": 6.0, "stepped": 4.0}
        laps |= {"steps": [0.1] * steps, "waits": [0.0] * steps, "images": [0.1] * 3}
        laps |= {"host_fixed": GIB, "gpu_fixed": 2 * GIB}
        memory = {"host": 2 * GIB, "host_room": 9 * GIB, "loaders": 0, "loader_workers": 0}
        memory |= {"gpu": int((2 + 1.5 * images) * GIB), "gpu_room": self.room * GIB}
        times = {"began": 0.0, "ended": 7.0, "told": 7.0, "checkpointed": 4.5, "disk_room": GIB}
        row = {"rank": 0, "machine": "A", "bank_bytes": 0, "laps": laps, **memory, **times}
        self.rehearsal.listener.rows[job.key] = [row]


@pytest.mark.parametrize(
    "room, tried, most, change",
    [
        (9, [8, 4], 14, "accumulate=2"),  # 2 + 8 x 1.5 GiB
        (6, [8, 4, 2], 14, "accumulate=4"),  # 2 + 2 x 1.5 of 5.7
    ],
)
def test_what_is_missing_follows_from_fewer_images(
    planned, prepared, store, room, tried, most, change
):
    job = planned("stages.features.recipe.schedule.batch=8").jobs[0]
    with scratch(store) as inner:
        shown = some_of([job], prepared, inner, 6)
        rehearsal = _Rehearsal(planned(), store, inner, shown, 20, prepared.val.image_total, NODES)
        jobs = Acted(room, rehearsal)
        found = rehearsal.run(job, jobs, [job])
    assert found.figures is None and jobs.tried == tried
    assert rehearsal.findings[0].sentence == OUT
    lack = rehearsal.findings[-1]
    assert f"a worker takes {most:.2f} GiB, which is {most - room:.2f} GiB more" in lack.sentence
    assert lack.changes[0].startswith(f"stages.features.recipe.{change} ")


def test_gpu_without_room_for_a_pair_is_told_once(planned, prepared, store):
    job = planned().jobs[0]  # two images
    with scratch(store) as inner:
        shown = some_of([job], prepared, inner, 6)
        rehearsal = _Rehearsal(planned(), store, inner, shown, 20, prepared.val.image_total, NODES)
        rehearsal.run(job, Acted(3, rehearsal), [job])
    assert [str(finding) for finding in rehearsal.findings] == [OUT]
