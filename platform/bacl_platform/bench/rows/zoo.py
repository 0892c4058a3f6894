"""The field's methods beside each other: all in one bank, and each one's loss by itself."""

import json
import tempfile
from contextlib import redirect_stderr
from dataclasses import replace
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import yaml
from pydantic import TypeAdapter
from torch import Tensor

import bacl.register  # noqa: F401  before anything imports mmdet.models
from bacl.config import variant_options
from bacl.datasets.prepare import prepare
from bacl.detector.layers import read
from bacl.detector.two_stage import plain_model
from bacl.draws import generator
from bacl.method_settings.registry import METHODS
from bacl.method_settings.registry import Variant as MethodSettings
from bacl.settings import Detector
from bacl.variants import Batch, build_variant
from bacl_platform.bench.embedded import STEPS, experiment
from bacl_platform.bench.measure import Row, Setting, in_turns
from bacl_platform.plan.planner import make_plan
from bacl_platform.spec.load import load
from bacl_platform.store.names import JOB
from bacl_platform.store.store import Store
from bacl_platform.tools.stand_in import stand_in
from bacl_platform.train import worker

CATEGORIES, WIDTH, ROWS = 1203, 1024, 1024
"""LVIS v1.0's, of the released heads, and of the RoIs of two images."""
POOLED = 256 * 7 * 7
MODEL = plain_model(Detector())
TREES = {"visual": 25, "geometric": 50, "lexical": 108}
"""Parents in the released trees."""

_BY_DEFINITION = {
    "simcal": "a second box head, 12544 x 1024 and on",
    "forest": "four hidden layers and classifiers",
}
"""Methods that take more than twice a classifier's time by their definition, and why."""

_NOT = ("cosine", "disalign", "simcal", "forest")
"""Left out of the bank: one without a loss of its own, and those that need another trunk, images in
another order, or a file."""


def measure(setting: Setting) -> list[Row]:
    """One stage 2 of a bank of all methods beside one of BACL alone, evaluation included; then a
    step of each method's classifier, loss and state beside cross-entropy."""
    return [bank(setting), *losses(setting)]


def bank(setting: Setting) -> Row:
    """Time in mmengine's loops, of jobs that train as a Ray Train worker trains them."""
    _, heads, size, drawn = STEPS[setting.image]
    own: dict[str, dict[str, Any]] = {
        "bags": {"bounds": [20]},
        "bacl": {"hallucination": {"categories": drawn}},
    }
    variants = {name: {"method": name, **own.get(name, {})} for name in METHODS if name not in _NOT}
    with tempfile.TemporaryDirectory(prefix="bacl-bench-") as folder, redirect_stderr(StringIO()):
        path, store = Path(folder) / "experiment.yaml", Store(Path(folder) / "store")
        path.write_text(experiment(size, 10, heads, drawn, setting.threads), encoding="utf-8")
        prepared = prepare(load(path).dataset, store.datasets)
        # Planned before any is trained: a plan leaves out variants that the store has.
        plans = []
        # The first bank pays for what the others find warm.
        for chosen in ({"bce": variants["bce"]}, {"bacl": variants["bacl"]}, variants):
            shown = yaml.safe_dump(chosen, default_flow_style=True, width=10**6).strip()
            stages = load(path, [f"stages.classifier.variants={shown}", "baseline=null"])
            plans.append(make_plan(stages, prepared, store))
        taken = []
        for plan in plans:
            for job in plan.missing(store):
                if failure := worker.train(job, store, lambda *_: None, lambda _: None):
                    raise RuntimeError(failure)
            record = json.loads((store.entry(plan.jobs[-1].key) / JOB).read_text(encoding="utf-8"))
            taken.append((1000 * record["loop_seconds"], len(record["variants"])))
    _, (alone, _), (together, together_variants) = taken
    what = f"{together_variants} methods in one bank, {heads} steps"
    return Row("zoo", what, together, "BACL alone", alone, 2.5)


def losses(setting: Setting) -> list[Row]:
    """Forward and backward through classifier and loss, and the update of the state."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.full((ROWS,), CATEGORIES)
    labels[: ROWS // 4] = torch.randint(CATEGORIES, (ROWS // 4,), generator=draw)
    labels = labels.to(setting.device)
    pooled = torch.randn(ROWS, POOLED, generator=draw).relu().to(setting.device)
    features = torch.randn(ROWS, WIDTH, generator=draw).relu().to(setting.device)
    shown = {"pooled": pooled, "fc1": features, "fc2": features}
    plain = torch.nn.Linear(WIDTH, CATEGORIES + 1, device=setting.device)
    images = torch.arange(2, device=setting.device).repeat_interleave(ROWS // 2)
    batch = Batch(
        features,
        labels,
        images,
        positions=[0, 1],
        ids=[0, 1],
        generator=partial(generator, setting.device),
        drawn_for=[int(labels[0]), int(labels[ROWS // 2])],
    )

    def theirs() -> None:
        plain.zero_grad()
        F.cross_entropy(plain(features), labels).backward()

    with tempfile.TemporaryDirectory(prefix="bacl-bench-") as folder:
        trees = _trees(Path(folder) / "trees.json")
        steps = [_step(name, batch, shown, trees, setting, draw) for name in METHODS]
    repeat = 20 if setting.repeat is None else setting.repeat
    *ours, beside = in_turns([*steps, theirs], repeat, 3, setting.device)
    what = f"{ROWS} samples, {CATEGORIES} categories"
    return [
        Row(
            f"zoo_{name}",
            f"{what}: {_BY_DEFINITION[name]}" if name in _BY_DEFINITION else what,
            taken,
            "cross-entropy",
            beside,
            None if name in _BY_DEFINITION else 2.0,
        )
        for name, taken in zip(METHODS, ours, strict=True)
    ]


def _trees(path: Path) -> Path:
    """A file of trees in which neighbours have the same parent."""
    content = {
        "categories": [category.name for category in stand_in(CATEGORIES).categories],
        "trees": {
            name: [parents * label // CATEGORIES for label in range(CATEGORIES)]
            for name, parents in TREES.items()
        },
    }
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def _step(
    name: str,
    batch: Batch,
    shown: dict[str, Tensor],
    trees: Path,
    setting: Setting,
    draw: torch.Generator,
) -> Any:
    given = {"method": name, **({"trees": str(trees)} if name == "forest" else {})}
    settings = TypeAdapter(MethodSettings).validate_python(given)
    options = variant_options(name, settings, stand_in(CATEGORIES), MODEL, 100_000, 100, 16)
    variant = build_variant(options, WIDTH, CATEGORIES, draw).to(setting.device)
    batch = replace(batch, features=read(shown, variant.reads))

    def step() -> None:
        variant.zero_grad()
        logits: Tensor = variant.logits(batch.features)
        parts = variant.terms(logits, batch).values()
        sum(total / count.clamp_min(1) for total, count in parts).backward()  # type: ignore[union-attr]
        variant.update(logits, batch)

    return step
