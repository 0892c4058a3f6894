"""What the platform's tests share: a tiny experiment on the embedded set, and its plan."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bacl.datasets.annotations import Prepared, prepare
from bacl.evaluation import Result
from bacl_platform.experiment import load
from bacl_platform.plan import Job, Plan, make_plan
from bacl_platform.store import JOB, Store

TINY = """
name: tiny
dataset: {format: embedded, size: small}
detector:
  backbone: tiny
  neck_channels: 16
  fc_channels: 32
  rpn_samples: 32
  roi_samples: 32
  test_proposals: 50
  score_threshold: 0.01
  max_detections: 20
stages:
  features:
    kind: representation
    recipe: &recipe
      schedule: {iterations: 12, batch: 2, lr: 0.02, warmup: 4, milestones: [9]}
      scales: [[96, 96]]
      test_scale: [96, 96]
      proposals: 50
      checkpoint_every: 5
      loader_workers: 0
  heads:
    kind: classifier
    after: features
    variants: {bacl: {method: bacl, hallucination: {categories: 4}}, softmax: {method: softmax}}
    recipe: *recipe
baseline: softmax
"""


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """An experiment file that trains in seconds: 12 steps, checkpoints at 5, 10 and 12."""
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="session")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that holds the tiny experiment's prepared dataset."""
    return tmp_path_factory.mktemp("datasets")


@pytest.fixture(scope="session")
def prepared(datasets: Path) -> Prepared:
    path = datasets / "tiny.yaml"
    path.write_text(TINY)
    return prepare(load(path).dataset, datasets)


@pytest.fixture
def store(tmp_path: Path, datasets: Path, prepared: Prepared) -> Store:
    """An empty store beside the shared datasets."""
    store = Store(tmp_path / "store")
    store.root.mkdir()
    store.datasets.symlink_to(datasets)
    return store


@pytest.fixture
def planned(tiny: Path, prepared: Prepared, store: Store) -> Callable[..., Plan]:
    """Plans the tiny experiment with overrides, for the empty store."""
    return lambda *overrides: make_plan(load(tiny, list(overrides)), prepared, store)


@pytest.fixture
def fill(prepared: Prepared, store: Store) -> Callable[..., None]:
    """Publishes jobs with made results, as the worker would.

    `aps` gives each variant's AP in its job's seed; groups have AP_r = AP / 4, AP_c = AP / 2,
    AP_f = AP, or no rare category with `rare=False`. A category's weights have its label as norm.
    """

    def publish(jobs: list[Job], aps: dict[tuple[str, int], float], rare: bool = True) -> None:
        for job in jobs:
            folder = store.work(job.key) / "entry"
            for name in job.variants:
                _result(folder / "variants" / name, aps[name, job.seed], rare, prepared)
            rows = [
                {
                    "step": step,
                    "lr": 0.01,
                    "loss": 9.0,
                    "loss_rpn_cls": 1 / step,
                    **{f"{name}.loss_cls": (job.seed + 1) / step for name in job.variants},
                }
                for step in range(1, job.iterations + 1)
            ]
            rows.append({"step": job.iterations, "bacl/AP": 0.3})
            (folder / JOB).write_text(job.model_dump_json(exclude={"config"}))
            (folder / "scalars.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
            store.publish(job.key, folder)

    return publish


def _result(folder: Path, ap: float, rare: bool, prepared: Prepared) -> None:
    folder.mkdir(parents=True)
    of_group = {"r": ap / 4 if rare else None, "c": ap / 2, "f": ap}
    metrics = {"AP": ap, "AP50": ap * 1.5, "AP75": ap}
    metrics |= {f"AP_{g}": math.nan if v is None else v for g, v in of_group.items()}
    rows = [{**c.model_dump(), "AP": of_group[c.frequency]} for c in prepared.categories]
    evaluator = {"name": "hotcoco", "version": "1.3.0", "ground_truth_sha256": "0" * 64}
    Result(metrics, rows, evaluator).save(folder)
    weights = torch.zeros(len(rows) + 1, 4)
    weights[:, 0] = torch.arange(len(rows) + 1)
    state = {"roi_head.bbox_head.fc_cls.weight": weights}
    torch.save({"state_dict": state}, folder / "checkpoint.pth")
