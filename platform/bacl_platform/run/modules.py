"""Whether the nodes of a cluster can import the modules that experiments name in `imports`."""

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

from bacl.errors import RunError
from bacl_platform.plan.job import Job
from bacl_platform.run.placement import fitting, on_node

PATIENCE = 60.0
"""Seconds in which nodes must have tried; a module of methods imports torch, which takes some."""


def modules_of(jobs: Sequence[Job]) -> list[str]:
    """The modules that jobs import and that are not BACL's own."""
    named = {name for job in jobs for name in job.config["custom_imports"]["imports"]}
    return sorted(name for name in named if name.split(".")[0] != "bacl")


def check_modules(jobs: Sequence[Job], nodes: Sequence[Mapping[str, Any]]) -> None:
    """Raise RunError where a node that a job may train on cannot import a module of its experiment.

    nodes: as `ray.nodes()` gives them. A task on each tries once; a node that does not answer in
    time, or dies, is passed over.
    """
    names = modules_of(jobs)
    asked = [
        node
        for node in nodes
        if node["Alive"] and any(fitting(job.resources, node) for job in jobs)
    ]
    if not names or not asked:
        return
    if lacks := sentences(_tried(names, asked)):
        raise RunError("\n".join(lacks))


def sentences(failures: Sequence[tuple[str, Mapping[str, str]]]) -> list[str]:
    """Error messages, one for each module and reason.

    failures: pairs of a node's name and its failed imports, as `failed_imports` gives them.
    """
    nodes: dict[tuple[str, str], dict[str, None]] = {}
    for node, failed in failures:
        for module, error in failed.items():
            nodes.setdefault((module, error), {})[node] = None
    return [
        f"imports: {module} cannot be imported on {'nodes' if len(of) > 1 else 'node'} "
        f"{', '.join(of)} ({error}): install it there, or run the file with `bacl submit`, which "
        "sends modules that lie beside it"
        for (module, error), of in nodes.items()
    ]


def _tried(
    names: list[str], nodes: Sequence[Mapping[str, Any]]
) -> list[tuple[str, Mapping[str, str]]]:
    """What `failed_imports` found on each node that has answered, by the node's name."""
    import ray
    from ray.exceptions import RayError

    task = ray.remote(failed_imports)
    of = {
        task.options(max_retries=0, **on_node(node["NodeID"])).remote(names): node for node in nodes
    }
    answered, silent = ray.wait(list(of), num_returns=len(of), timeout=PATIENCE)
    for one in silent:
        ray.cancel(one, force=True)
    found = []
    for one in answered:
        name = f"{of[one]['NodeManagerHostname']} ({of[one]['NodeManagerAddress']})"
        try:
            found.append((name, ray.get(one)))
        except RayError:
            continue
    return found


def failed_imports(names: Sequence[str]) -> dict[str, str]:
    """Why modules cannot be imported in this process, by their names; empty where all can."""
    failed = {}
    for name in names:
        try:
            importlib.import_module(name)
        except Exception as error:  # whatever the module does
            failed[name] = f"{type(error).__name__}: {error}"
    return failed
