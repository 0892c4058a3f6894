"""The weights that detectors start from: held to a content, fetched and checked before any job
starts."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from bacl.digests import sha256
from bacl.errors import RunError, UsageError
from bacl.weights import (
    Address,
    address_of,
    checkpoint_of,
    enters_by_content,
    in_torch_hub,
    is_file,
    pretrained,
)
from bacl_platform.console import Console, Watching
from bacl_platform.spec.experiment import Experiment
from bacl_platform.store.store import Store
from bacl_platform.store.weights import known_digest, provide

if TYPE_CHECKING:
    from bacl_platform.plan.job import Job


def held_weights(experiment: Experiment, store: Store) -> tuple[Experiment, str]:
    """The experiment with its weights from the web held to a content, and the digest of
    `detector.weights`.

    A digest that neither the user nor the store knows is found by fetching. It is empty without
    weights, for `torchvision`, which enters keys by its name, and for a file that cannot be read,
    which `check_weights` reports.
    """
    detector = experiment.detector
    if detector.weights is None:
        return experiment, ""
    address = address_of(detector.weights)
    if address is not None:
        digest = known_digest(store, address) or provide_shown(store, address).stem
        held = detector.model_copy(update={"weights": Address(address.place, digest).text})
        return experiment.model_copy(update={"detector": held}), digest
    if not is_file(detector.weights):
        return experiment, ""
    try:
        return experiment, sha256(Path(detector.weights))
    except OSError:
        return experiment, ""


def provide_shown(store: Store, address: Address) -> Path:
    """The file of an address, with progress on the standard error where it is fetched."""
    with Watching(Console(stderr=True)) as watching:
        return provide(store, address, watching.say, watching)


def check_weights(jobs: Iterable["Job"], store: Store) -> None:
    """Raise UsageError where the backbone of a job is to start from weights that do not fit; fetch
    those from the web first.

    MMEngine would find out when the job starts, and would pass over weights of other names.
    """
    problems: dict[str, None] = {}
    checked: list[dict[str, object]] = []
    for job in jobs:
        backbone = job.config["model"].get("backbone") or {}
        checkpoint = checkpoint_of(backbone.get("init_cfg"))
        if checkpoint is None or not enters_by_content(checkpoint) or backbone in checked:
            continue
        checked.append(backbone)
        address = address_of(checkpoint)
        file = provide_shown(store, address) if address else Path(checkpoint)
        if problem := _problem(file, address.place if address else checkpoint, backbone):
            problems[f"detector.weights: {problem}"] = None
    if problems:
        raise UsageError("\n".join(problems))


def fetch_named(jobs: Iterable["Job"], store: Store) -> None:
    """Fetch weights that jobs begin with by a hub's name alone, such as `weights: torchvision`.

    Those that MMEngine finds in torch.hub's cache stay there.
    """
    names = {
        init["checkpoint"]: None for job in jobs for init in pretrained(job.config.get("model"))
    }
    for name in (name for name in names if not enters_by_content(name)):
        try:
            address = address_of(name)
        except ValueError:  # a scheme of MMEngine's that is no hub's here: MMEngine's to fetch
            continue
        if address is not None and not in_torch_hub(address):
            provide_shown(store, address)


def _problem(file: Path, said: str, backbone: dict[str, object]) -> str | None:
    """Why a backbone cannot start from a file, in a sentence; said: what the user calls it."""
    from bacl.detector.warmstart import read_tensors

    if not file.exists():
        return f"expected a file of backbone weights, found no {file}"
    try:
        content = read_tensors(file, mapped=True)
    except RunError as error:
        return str(error).replace(str(file), said)
    from bacl.detector.backbone_fit import backbone_problem  # loads MMDetection

    problem = backbone_problem(backbone, content)
    return problem and f"{said}: {problem}"
