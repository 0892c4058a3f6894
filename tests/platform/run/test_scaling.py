"""With how many workers a job starts, when it starts again with more, and what counts as a failure:
Ray Train's policies without a cluster."""

import time
from types import SimpleNamespace

import pytest
import ray
from ray.train import FailureConfig, ScalingConfig, WorkerGroupError
from ray.train.v2._internal.execution.failure_handling import FailureDecision
from ray.train.v2._internal.execution.scaling_policy import NoopDecision, ResizeDecision

from bacl_platform.run import scaling
from bacl_platform.run.mailbox import Mailbox
from bacl_platform.run.placement import of_worker
from bacl_platform.run.scaling import DividingPolicy, SparingPolicy, gains
from bacl_platform.spec.experiment import Resources
from bacl_platform.train.messages import Reached, Short


class Remote:
    """An actor in this process: what its methods return at once."""

    def __init__(self, actor):
        self.actor = actor

    def __getattr__(self, name):
        return SimpleNamespace(remote=getattr(self.actor, name))


@pytest.fixture
def policy(planned, monkeypatch):
    """Makes the policy of a job with 12 pairs of images a step, and a mailbox in this process."""
    monkeypatch.setattr(ray, "get", lambda result, timeout=None: result)
    monkeypatch.setattr(scaling, "_get_draining_nodes", dict)
    (job, _) = planned("stages.features.recipe.schedule.batch=24").jobs

    def made(kind="representation", **asked):
        resources = Resources(**{"workers": (2, 8), "grow_after": 10, **asked})
        own = job.model_copy(update={"resources": resources, "kind": kind})
        config = ScalingConfig(
            num_workers=resources.workers,
            use_gpu=resources.gpus > 0,
            placement_strategy=resources.placement,
            elastic_resize_monitor_interval_s=resources.grow_after,
            resources_per_worker=of_worker(resources),
        )
        found = DividingPolicy(config, own, Remote(Mailbox()), "attempt")
        monkeypatch.setattr(found, "_maybe_send_resource_request", lambda: None)
        return found

    return made


@pytest.fixture
def nodes(monkeypatch):
    """Gives the cluster nodes with so many cores, all reserved for the policy."""

    def given(policy, *cores):
        there = [
            {"NodeID": str(n), "Alive": True, "Resources": {"CPU": float(count)}, "Labels": {}}
            for n, count in enumerate(cores)
        ]
        monkeypatch.setattr(ray, "nodes", lambda: there)
        reserved = {node["NodeID"]: node["Resources"] for node in there}
        monkeypatch.setattr(policy, "_get_reserved_resources", lambda: reserved)
        return there

    return given


def chosen(policy):
    """With how many workers a job starts; None where it waits."""
    decision = policy.make_decision_for_non_running_worker_group()
    return decision.num_workers if isinstance(decision, ResizeDecision) else None


@pytest.mark.parametrize(
    ("cores", "count"),
    [([1], None), ([2], 2), ([1, 1, 1], 3), ([5], 4), ([7], 6), ([8, 3], 6), ([64], 6)],
)
def test_job_starts_with_the_most_workers_that_divide_its_batch(
    policy, nodes, monkeypatch, cores, count
):
    monkeypatch.setattr(scaling, "ASK_EVERY", 0.0)
    own = policy()
    nodes(own, *cores)
    assert own.job.worker_counts == [2, 3, 4, 6]
    assert chosen(own) == count
    waits = [Short(own.job.key)] if count is None else []
    assert own.mailbox.actor.drain() == waits


def test_shards_and_evaluations_divide_among_any_number(policy, nodes):
    for kind in ("features", "imported"):
        own = policy(kind)
        nodes(own, 5)
        assert chosen(own) == 5


def test_nodes_that_are_dead_or_reclaimed_or_unlike_do_not_count(policy, nodes, monkeypatch):
    own = policy(labels={"zone": "!b"})
    there = nodes(own, 2, 2, 2, 2)
    assert chosen(own) == 6
    there[0]["Alive"] = False
    there[1]["Labels"] = {"zone": "b"}
    assert chosen(own) == 4
    monkeypatch.setattr(scaling, "_get_draining_nodes", lambda: {"2": 0})
    assert chosen(own) == 2


@pytest.mark.parametrize(("placement", "count"), [("STRICT_PACK", 4), ("STRICT_SPREAD", 3)])
def test_placement_counts(policy, nodes, placement, count):
    own = policy(placement=placement)
    nodes(own, 4, 4, 1)
    assert chosen(own) == count


def test_fractions_of_a_gpu_count(policy, nodes):
    own = policy(gpus=0.1)
    there = nodes(own, 8)
    there[0]["Resources"]["GPU"] = 0.3
    assert chosen(own) == 3


def running(count, seconds=100.0):
    return SimpleNamespace(num_workers=count, start_time=time.monotonic() - seconds)


def considered(policy, now, left, since=5.0, seconds=100.0):
    """Why a job that has so many seconds to train yet is started again; None where it is not.

    since: seconds that starting its workers took. seconds: how long ago they started.
    """
    policy.mailbox.actor = box = Mailbox()
    policy._latest_monitor_time = float("-inf")
    policy._decided = time.time() - since
    box.asked_to_move("key", "attempt", Reached(1, 1.0, left))
    box._reached[policy.job.key] = box._reached.pop("key")
    decision = policy.make_decision_for_running_worker_group(running(now, seconds), None)
    assert isinstance(decision, NoopDecision)  # Ray would end the workers where they are
    return box.asked_to_move(policy.job.key, "attempt", Reached(2, 1.0, left))


def test_running_job_is_asked_to_move_where_more_workers_gain(policy, nodes):
    own = policy()
    nodes(own, 7)
    assert considered(own, 2, left=600) == "room for 6 workers instead of 2"
    assert considered(own, 6, left=600) is None
    assert considered(own, 2, left=600, seconds=9) is None  # grow_after is 10
    assert considered(own, 2, left=12) is None  # 8 s are gained, starting took 5
    nodes(own, 5)
    assert considered(own, 4, left=600) is None  # a fifth worker does not divide the batch
    nodes(own, 2)
    assert considered(own, 4, left=600) is None  # what it has, it keeps


def test_job_that_has_not_trained_yet_is_left_alone(policy, nodes):
    own = policy()
    nodes(own, 8)
    own.make_decision_for_running_worker_group(running(2), None)
    assert own.mailbox.actor.asked_to_move("key", "attempt", Reached(1, 1.0, 600)) is None


@pytest.mark.parametrize(
    ("left", "now", "then", "starting", "expected"),
    [(100, 2, 4, 20, True), (100, 2, 4, 30, False), (1000, 7, 8, 100, False), (1, 1, 9, 0, True)],
)
def test_more_workers_are_worth_twice_their_start(left, now, then, starting, expected):
    assert gains(left, now, then, starting) == expected


def failing(*texts):
    errors = {rank: RuntimeError(text) for rank, text in enumerate(texts)}
    return WorkerGroupError("failed", errors)


def test_end_of_a_machine_in_order_is_no_failure():
    ended = "its node has died.\n\tthe actor's node was terminated expectedly: received SIGTERM"
    sparing = SparingPolicy(FailureConfig(max_failures=1))
    for _ in range(3):
        assert sparing.make_decision(failing("peer lost", ended)) == FailureDecision.RETRY
    assert sparing.make_decision(failing("killed")) == FailureDecision.RETRY
    assert sparing.make_decision(failing("killed")) == FailureDecision.RAISE
