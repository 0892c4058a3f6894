"""The entry of a finished job."""

import json
import shutil
from pathlib import Path

from mmengine.runner import weights_to_cpu
from torch import nn

from bacl.config import config_text
from bacl.datasets.prepared import Prepared
from bacl.export import export_variants
from bacl_platform.plan.job import Job
from bacl_platform.store.disk import disk_errors, write_text
from bacl_platform.store.names import CHECKPOINT, JOB, LOG, MOVES, SCALARS
from bacl_platform.store.store import Store
from bacl_platform.train.model import save_file


def described(job: Job, **facts: float) -> str:
    content = job.model_dump(mode="json", exclude={"config"})
    return json.dumps({**content, "iterations": job.iterations, **facts}, indent=1)


def publish(job: Job, store: Store, results: Path, model: nn.Module, loop_seconds: float) -> None:
    """Make the job's entry.

    loop_seconds: what mmengine's loops took of the attempt that ended it, for the record.
    """
    state = weights_to_cpu(model.state_dict())
    with disk_errors(results):
        (results / JOB).write_text(described(job, loop_seconds=loop_seconds), encoding="utf-8")
        write_text(results / "config.py", config_text(job.config))
        meta = {"key": job.key, "stage": job.stage, "seed": job.seed, "step": job.iterations}
        if job.kind == "imported":
            meta["continues"] = True
        save_file({"state_dict": state, "meta": meta}, results / CHECKPOINT)
        prepared = Prepared.load(Path(job.config["val_evaluator"]["dataset_info"]))
        export_variants(job.config, state, prepared.categories, results / "variants")
        for name in (SCALARS, LOG, *([MOVES] if job.population else [])):
            shutil.copyfile(store.work(job.key) / name, results / name)
    store.publish(job.key, results)
