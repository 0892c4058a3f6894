"""What workers ask for, and clusters that could never give it."""

import re

import pytest
from rich.console import Console

from bacl.errors import RunError
from bacl_platform.run.placement import lacking, of_worker, waiting_for
from bacl_platform.run.ray_session import check_room
from bacl_platform.spec.experiment import Resources


def node(labels=None, alive=True, **resources):
    return {"Alive": alive, "Resources": resources, "Labels": labels or {}}


TWO = [node(CPU=4, GPU=2), node(CPU=4, GPU=2)]


def told(planned, nodes, **asked):
    job = planned().jobs[0]
    return lacking([job.model_copy(update={"resources": Resources(**asked)})], nodes, "the cluster")


def test_worker_asks_in_rays_words():
    asked = Resources(workers=2, cpus=3, gpus=0.5, memory=1.5, custom={"nvme": 1})
    expected = {"CPU": 3, "GPU": 0.5, "memory": 1.5 * 2**30, "nvme": 1}
    assert of_worker(asked) == expected


@pytest.mark.parametrize(
    "asked",
    [
        {"workers": 4, "gpus": 1},
        {"workers": 8, "gpus": 0.5},
        {"workers": 2, "gpus": 2, "placement": "STRICT_SPREAD"},
        {"workers": 4, "placement": "STRICT_PACK"},
        {"workers": (4, 64), "gpus": 1},
    ],
)
def test_what_fits_is_not_told(planned, asked):
    assert told(planned, TWO, **asked) == []


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"workers": 5, "gpus": 1}, "5 workers of 1 CPU, 1 GPU each, the cluster has it for 4"),
        ({"workers": 1, "cpus": 5}, "1 workers of 5 CPU each, the cluster has it for 0"),
        ({"workers": 3, "gpus": 1, "placement": "STRICT_PACK"}, "each on one node, .* for 2"),
        ({"workers": 3, "placement": "STRICT_SPREAD"}, "each on a node of its own, .* for 2"),
        ({"workers": (5, 64), "gpus": 1}, "at least 5 workers of 1 CPU, 1 GPU each, .* for 4"),
        ({"gpus": 1, "accelerator": "H100"}, r"1 CPU, 1 GPU \(H100\) each, .* for 0"),
        ({"memory": 9}, "1 CPU, 9 GiB each, .* for 0"),
        ({"custom": {"nvme": 1}}, "1 CPU, 1 nvme each, .* for 0"),
        ({"labels": {"zone": "a"}}, "1 CPU, label zone=a each, .* for 0"),
    ],
)
def test_what_the_cluster_could_never_give_is_told(planned, asked, expected):
    (sentence,) = told(planned, TWO, **asked)
    assert sentence.startswith("job features: expected room for ")
    assert re.search(expected, sentence), sentence


def test_kind_label_and_life_of_nodes_count(planned):
    fast = node({"zone": "a"}, CPU=4, GPU=2, **{"accelerator_type:H100": 1.0})
    nodes = [fast, *TWO, node({"zone": "a"}, alive=False, CPU=64)]
    assert told(planned, nodes, workers=2, gpus=1, accelerator="H100") == []
    assert len(told(planned, nodes, workers=3, gpus=1, accelerator="H100")) == 1
    for selector, room in [("a", 4), ("!a", 8), ("in(a, b)", 4), ("!in(b,c)", 12)]:
        assert told(planned, nodes, workers=room, labels={"zone": selector}) == []
        assert len(told(planned, nodes, workers=room + 1, labels={"zone": selector})) == 1


def test_cluster_that_may_grow_is_waited_for(planned, capsys):
    jobs = planned("stages.features.resources.custom={nvme: 1}").jobs
    with pytest.raises(RunError, match=r"job features: .* 1 nvme each, the cluster has it for 0$"):
        check_room(jobs, TWO, Console())
    check_room(jobs, [*TWO, node({"ray.io/node-group": "workers"}, CPU=1)], Console())
    assert "has it for 0 so far: the job waits for more nodes" in capsys.readouterr().out


@pytest.mark.parametrize(
    "asked, free, expected",
    [
        ({"workers": 2}, {}, "waiting for 2 CPU, 0 free"),
        ({"workers": 2, "cpus": 2}, {"CPU": 3.0}, "waiting for 4 CPU, 3 free"),
        ({"gpus": 0.5}, {"CPU": 8, "GPU": 0.25}, "waiting for 0.5 GPU, 0.25 free"),
        (
            {"memory": 4, "custom": {"nvme": 1}},
            {"memory": 2**30},
            "waiting for 1 CPU, 0 free, 4 GiB, 1 free, 1 nvme, 0 free",
        ),
        ({"workers": (2, 8), "cpus": 2}, {"CPU": 3.0}, "waiting for 4 CPU, 3 free"),
        (
            {"workers": (2, 8), "cpus": 2},
            {"CPU": 4},
            "waiting for room for at least 2 workers of 2 CPU each",
        ),
        ({"workers": 2, "cpus": 2}, {"CPU": 4}, "waiting for room for 2 workers of 2 CPU each"),
    ],
)
def test_job_that_waits_says_for_what(asked, free, expected):
    assert waiting_for(Resources(**asked), free) == expected
