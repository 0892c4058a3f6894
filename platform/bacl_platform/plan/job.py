"""What is planned: jobs, and the plan of an experiment that they make."""

import hashlib
import json
from collections.abc import Iterator
from typing import Any, Literal

from bacl.method_settings.registry import AnyVariant
from bacl.schema import Settings
from bacl.settings import Recipe
from bacl_platform.plan.population import Population
from bacl_platform.spec.experiment import Experiment, Resources
from bacl_platform.store.store import Store

Fidelity = Literal["exact", "replay"]
"""What a variant is trained on: features that the trunk computes at every step, or stored ones."""


class Job(Settings):
    """One stage, for one seed, with a group of its variants: what one Ray Train run trains."""

    key: str
    """Digest of the variants' keys; of a finished job, the name of its entry in the store."""
    name: str
    stage: str
    kind: str
    seed: int
    variants: dict[str, AnyVariant]
    variant_keys: dict[str, str]
    """Key of each variant, the same whichever other variants it is trained with."""
    parent: str | None
    """Key of the job whose checkpoint this one starts from."""
    features_from: str | None = None
    """Key of the job of kind `features` that stored what corrections are evaluated on."""
    recipe: Recipe
    resources: Resources
    config: dict[str, Any]
    """The resolved mmengine configuration, plain values only."""
    dataset_digest: str
    versions: dict[str, str]
    """Installed versions, for the record; they do not enter the key."""
    result_versions: dict[str, int | str]
    """Versions of the parts that its results depend on, `bacl.result_versions`."""
    code: str
    """Digest of the method's sources, for the record; it does not enter the key."""
    population: Population | None = None
    """How the variants compete while they train, if they do."""

    @property
    def replayed(self) -> bool:
        """Whether it trains on stored features."""
        return self.kind == "classifier" and self.recipe.features == "replay"

    @property
    def only_evaluated(self) -> bool:
        """Whether it trains nothing and stores no features."""
        return self.kind in ("imported", "corrections")

    @property
    def reads_features_of(self) -> str | None:
        """Key of the job of kind `features` whose features it reads."""
        return self.parent if self.replayed else self.features_from

    @property
    def unit(self) -> str:
        """What its progress is counted in."""
        return "shard" if self.kind == "features" else "step"

    @property
    def features(self) -> Fidelity:
        """What its variants are trained on; of corrections, those that they correct."""
        corrected = self.kind == "corrections" and self.recipe.features == "replay"
        return "replay" if self.replayed or corrected else "exact"

    @property
    def worker_counts(self) -> list[int]:
        """The numbers of workers that it may train with, ascending."""
        counts = range(self.resources.least, self.resources.most + 1)
        if self.kind == "features" or self.only_evaluated:  # which have no steps
            return list(counts)
        return [count for count in counts if self.recipe.pairs % count == 0]

    @property
    def iterations(self) -> int:
        """Steps; of a job that stores features, shards."""
        return self.config["train_cfg"]["max_iters"]


class Plan(Settings):
    """The jobs of an experiment, parents before children."""

    experiment: Experiment
    jobs: list[Job]

    @property
    def digest(self) -> str:
        """Identifies the plan: the same variants under the same experiment name."""
        keys = sorted(key for job in self.jobs for key in job.variant_keys.values())
        return digest_of([self.experiment.name, keys])

    def missing(self, store: Store) -> list[Job]:
        """Jobs that have no complete entry in the store."""
        return [job for job in self.jobs if not store.complete(job.key)]


def digest_of(value: Any) -> str:
    """The first 16 hex digits of SHA-256 over canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def grouped(variants: dict[str, Any], size: int | None) -> Iterator[dict[str, Any]]:
    """Variants by name in groups of at most `size`, each for one job; None puts all into one."""
    names = list(variants)
    size = size or len(names) or 1
    for start in range(0, len(names), size):
        yield {name: variants[name] for name in names[start : start + size]}
