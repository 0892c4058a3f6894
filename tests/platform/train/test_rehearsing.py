"""A rehearsed job in this process: what it shows, does and measures."""

import subprocess
import sys
import time

import numpy as np
import pytest

from bacl.datasets.samplers import Position
from bacl.evaluation import Detections
from bacl_platform.plan.rehearsed import REHEARSAL
from bacl_platform.tools.rehearsal.figures import figures_of
from bacl_platform.tools.rehearsal.jobs import (
    WARM_UP,
    WORST,
    halved,
    placed,
    rehearse_job,
    some_of,
)
from bacl_platform.tools.rehearsal.scratch import scratch
from bacl_platform.train import rehearsing
from bacl_platform.train.messages import Measured

STEPS = 20


def rehearsed(job, prepared, store, inner, parent=None, images=6):
    shown = some_of([job], prepared, inner, images)
    return rehearse_job(job, parent, shown, store, STEPS), shown


@pytest.mark.slow
def test_job_is_rehearsed_as_it_would_run(planned, prepared, store):
    job = planned("stages.features.recipe.schedule.batch=4").jobs[0]
    with scratch(store) as inner:
        made, shown = rehearsed(job, prepared, store, inner)
        told = []
        began = time.perf_counter()
        assert rehearsing.train(made, inner, told.append, lambda _: None) is None
        seconds = time.perf_counter() - began
        assert inner.complete(made.key) and made.key != job.key
        rows = [row for m in told if isinstance(m, Measured) for row in m.rows if "told" in row]
        figures = figures_of(made, rows, seconds, shown.prepared, inner)
    assert len(figures.steps) == STEPS - WORST - WARM_UP and len(figures.images) == 5
    assert all(0 <= wait < step for wait, step in zip(figures.waits, figures.steps))
    assert (figures.pass_images, figures.variants) == (4, 1)
    assert figures.judging > 0 and figures.checkpoint > 0 and figures.detection_bytes > 0
    (memory,) = figures.memory
    assert 100e6 < memory.host_fixed <= memory.host < memory.host_room
    parts = (
        figures.start + sum(figures.steps) + figures.checkpoint + sum(figures.images) + figures.end
    )
    assert 0.3 * seconds < parts < seconds  # the worst images and the warm-up are left out
    assert not store.entries() and figures.checkpoint_bytes > 1e5


def test_first_positions_show_the_worst_images_at_the_largest_scale(planned, prepared, store):
    scales = "stages.features.recipe.scales=[[64, 64], [96, 96]]"
    job = planned("stages.features.recipe.schedule.batch=4", scales).jobs[0]
    with scratch(store) as inner:
        made, _ = rehearsed(job, prepared, store, inner)
        import bacl.register  # noqa: F401

        # isort: split
        from mmdet.utils import register_all_modules

        register_all_modules(init_default_scope=True)
        options = dict(made.config["train_dataloader"]["dataset"])
        assert options.pop("type") == "WorstFirst"
        dataset = rehearsing.WorstFirst(**options)
    assert len(dataset.first) == WORST * 4
    sizes = set()
    for position in range(2 * WORST * 4):
        sample = dataset[Position(position, 1)]
        shown = sample["data_samples"].img_id
        if position < len(dataset.first):
            assert shown == dataset.worst.places[dataset.first[position]]
            assert max(sample["inputs"].shape) == 96
        else:
            assert shown == dataset.dataset.places[1]
            sizes.add(max(sample["inputs"].shape))
    assert sizes == {64, 96}
    crowded = [int(i) for i in dataset.first[4:8]]
    totals = dataset.dataset.index.shapes()[dataset.dataset.places, 2]
    assert sorted(totals[crowded]) == sorted(totals)[-4:]


def test_every_rank_sees_the_worst_images(planned, prepared, store):
    asked = ["stages.features.recipe.schedule.batch=8", "stages.features.resources.workers=2"]
    with scratch(store) as inner:
        made, _ = rehearsed(planned(*asked).jobs[0], prepared, store, inner)
        first = made.config["train_dataloader"]["dataset"]["first"]
        for begin in range(0, len(first), 8):  # a step's positions: four of each rank
            assert first[begin : begin + 4] == first[begin + 4 : begin + 8]
        fewer = halved(made)
        assert fewer.config["train_dataloader"]["batch_size"] == 2
        assert fewer.recipe.schedule.batch == 4  # which the ranks divide among them
        assert fewer.config["train_dataloader"]["sampler"]["batch"] == 4
        assert fewer.config["train_dataloader"]["dataset"]["first"][:4] == [
            *first[0:4:2],
            *first[0:4:2],
        ]
        assert halved(fewer) is None  # a pair stays together


def test_job_with_a_range_of_workers_has_those_that_there_is_room_for(planned):
    asked = ["stages.features.recipe.schedule.batch=8", "stages.features.resources.workers=[1, 4]"]
    job = planned(*asked).jobs[0]
    nodes = [{"Alive": True, "Resources": {"CPU": cores}} for cores in (2.0, 1.0)]
    now = placed(job, nodes)  # three would not divide the four pairs of a batch
    assert now.resources.workers == 2
    assert now.config["train_dataloader"]["batch_size"] == 4
    assert job.config["train_dataloader"]["batch_size"] == 2  # as the plan has it
    assert placed(job, nodes[:1] * 3).resources.workers == 4
    assert placed(now, nodes) == now


def test_rehearsed_job_has_no_key_of_the_plan(planned, prepared, store):
    job = planned().jobs[1]
    with scratch(store) as inner:
        shown = some_of([job], prepared, inner, 6)
        one, other = (rehearse_job(job, "0" * 16, shown, store, STEPS) for _ in range(2))
    keys = {job.key, *job.variant_keys.values()}
    for made in (one, other):
        assert not keys & {made.key, *made.variant_keys.values()}
        assert made.resources.retries == 0 and REHEARSAL in made.config
    assert one.key != other.key and REHEARSAL not in job.config


def test_detections_are_repeated_over_a_larger_split():
    found = Detections(
        np.array([0, 0, 2]), np.array([5, 6, 7]), np.array([0.1, 0.2, 0.3]), np.eye(3, 4)
    )
    more = rehearsing.repeated(found, 3, 5)
    assert more.image.tolist() == [0, 0, 2, 3, 3] and more.label.tolist() == [5, 6, 7, 5, 6]
    assert more.bbox.tolist() == np.eye(3, 4)[[0, 1, 2, 0, 1]].tolist()


WATCHED = """
from bacl_platform.train.memory import MemoryWatch
with MemoryWatch() as watch:
    before = watch.peak
    held = b"x" * (200 * 2**20)
    del held
print(watch.peak - before)
"""


def test_watch_sees_memory_that_has_gone_again():
    told = subprocess.check_output([sys.executable, "-c", WATCHED], text=True)
    assert 190 * 2**20 < int(told) < 250 * 2**20
