"""A trained variant as a store has it, which can be registered and compared."""

import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from bacl.datasets.prepared import Prepared
from bacl.errors import RunError
from bacl_platform.analysis.contenders import Contender
from bacl_platform.analysis.results import Result, read_result
from bacl_platform.plan.job import Job
from bacl_platform.plan.judged import prepared_of
from bacl_platform.store.manifest import read_manifest
from bacl_platform.store.names import CHECKPOINT, JOB
from bacl_platform.store.store import Store


@dataclass(frozen=True)
class Trained:
    """A finished variant. job: as its entry in the store has it, without its configuration."""

    store: Store
    job: Job
    variant: str

    @classmethod
    def of(cls, store: Store, key: str, variant: str) -> "Trained":
        """The variant of the job with this key.

        Raises RunError where the store has it not.
        """
        if not store.complete(key):
            raise RunError(f"the store {store.url} has no job {key}, of which {variant} is")
        content = json.loads((store.entry(key) / JOB).read_text(encoding="utf-8"))
        known = {name: value for name, value in content.items() if name in Job.model_fields}
        found = cls(store, Job.model_validate({**known, "config": {}}), variant)
        if not (found.folder / CHECKPOINT).is_file():
            raise RunError(f"the job {key} in the store {store.url} has no variant {variant}")
        return found

    @property
    def folder(self) -> Path:
        """Where its checkpoint, configuration, detections and metrics are."""
        return self.store.entry(self.job.key) / "variants" / self.variant

    @property
    def checkpoint_sha256(self) -> str:
        """The digest of its checkpoint, as the store's manifest has it."""
        files = read_manifest(self.store.entry(self.job.key))["files"]
        return str(files[f"variants/{self.variant}/{CHECKPOINT}"]["sha256"])

    @cached_property
    def result(self) -> Result:
        """What it reaches on its validation split."""
        return read_result(self.job, self.variant, self.store)

    @cached_property
    def prepared(self) -> Prepared:
        """The dataset that it was trained and judged on."""
        return prepared_of(self.job.dataset_digest, self.store)

    def contender(self, name: str, seed: int) -> Contender:
        """It, to be compared under this name with a detector of one seed, whichever was its own."""
        return Contender(
            name, self.job.name, self.prepared, None, [replace(self.result, seed=seed)]
        )
