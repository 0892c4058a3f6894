"""What a job's workers ask of a cluster, whether its nodes could ever give it, and what runs where.

Workers of a job all ask for the same, so room is counted node by node: how many of them fit.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from bacl_platform.plan.job import Job
from bacl_platform.spec.experiment import Resources

GIB = 2**30


def of_worker(asked: Resources) -> dict[str, float]:
    """What Ray sets aside for one worker, by Ray's names of resources; memory in bytes."""
    ask = {"CPU": float(asked.cpus), "GPU": asked.gpus, "memory": asked.memory * GIB}
    return {name: amount for name, amount in {**ask, **asked.custom}.items() if amount}


def lacking(jobs: Sequence[Job], nodes: Sequence[Mapping[str, Any]], where: str) -> list[str]:
    """A sentence for each job that the nodes have no room for, however long it waits.

    nodes: as `ray.nodes()` gives them. Counts what nodes have, not what is free of it.
    where: what the sentences call them.
    """
    found = {}
    for job in jobs:
        asked = job.resources
        counts = [fitting(asked, node) for node in nodes if node["Alive"]]
        room = room_in(asked, counts)
        if room < asked.least:
            found[job.key] = (
                f"job {job.name}: expected room for {_fewest(asked)} workers of "
                f"{asked.each} each{_how[asked.placement]}, {where} has it for {room}"
            )
    return list(found.values())


def groups_of(asked: Resources) -> list[dict[str, float]]:
    """What a job asks Ray for at once: the resources of each of its workers, of a range of workers
    the fewest."""
    return [of_worker(asked)] * asked.least


def waiting_for(asked: Resources, free: Mapping[str, float]) -> str:
    """What a job waits for, as `waiting for 2 CPU, 0 free`; free: what the cluster has left."""
    whole = {name: amount * asked.least for name, amount in of_worker(asked).items()}
    lacks = {name: amount for name, amount in whole.items() if amount > free.get(name, 0)}
    if not lacks:  # enough in all, but not where it is asked for
        return f"waiting for room for {_fewest(asked)} workers of {asked.each} each"
    return "waiting for " + ", ".join(
        f"{_amount(name, amount)}, {_amount(name, free.get(name, 0)).split()[0]} free"
        for name, amount in lacks.items()
    )


def _amount(name: str, amount: float) -> str:
    return f"{amount / GIB:.3g} GiB" if name == "memory" else f"{amount:g} {name}"


_how = {
    "PACK": "",
    "SPREAD": "",
    "STRICT_PACK": " on one node",
    "STRICT_SPREAD": " on a node of its own",
}


def _fewest(asked: Resources) -> str:
    return f"at least {asked.least}" if asked.elastic else str(asked.least)


def room_in(asked: Resources, counts: Sequence[int]) -> int:
    """How many workers nodes have room for together, that have it for so many each."""
    if asked.placement == "STRICT_PACK":
        return max(counts, default=0)
    if asked.placement == "STRICT_SPREAD":
        return sum(count > 0 for count in counts)
    return sum(counts)


def fitting(asked: Resources, node: Mapping[str, Any]) -> int:
    """How many workers a node has room for."""
    has, labels = node["Resources"], node.get("Labels") or {}
    if asked.accelerator and f"accelerator_type:{asked.accelerator}" not in has:
        return 0
    if not all(_matches(labels.get(name), wanted) for name, wanted in asked.labels.items()):
        return 0
    # Ray counts in ten-thousandths
    return min(
        math.floor(has.get(name, 0) / amount + 1e-4) for name, amount in of_worker(asked).items()
    )


def _matches(label: str | None, wanted: str) -> bool:
    """Whether a node's label fits a selector of Ray's: `a`, `!a`, `in(a,b)` or `!in(a,b)`."""
    negated, text = wanted.startswith("!"), wanted.removeprefix("!")
    inner = text[len("in(") : -1] if text.startswith("in(") and text.endswith(")") else text
    return (label in [value.strip() for value in inner.split(",")]) != negated


def beside_driver() -> dict[str, Any]:
    """Options of tasks and actors that must not be lost with a node that the driver is not on."""
    import ray

    return on_node(ray.get_runtime_context().get_node_id())


def on_node(node: str) -> dict[str, Any]:
    """Options of tasks that run on a node, by its id, and on no other; they take no CPU of it."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return {"num_cpus": 0, "scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False)}
