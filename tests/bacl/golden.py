"""Results as they were recorded, which hold while versions of results do (`bacl.result_versions`).

    python tests/bacl/golden.py    # record anew what changed on purpose

Recording refuses a case whose results changed while the versions of its parts did not.
"""

import json
import math
import sys
import tempfile
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from everything import CONFIGS, OWN, detected
from mmdet.registry import DATASETS
from pycocotools import mask as mask_utils
from pydantic import BaseModel
from training import (
    build,
    config_of,
    config_of_features,
    on_features,
    record,
    rewritten,
    stream_of,
    train,
)

from bacl.config import bank_heads
from bacl.datasets.index import Index
from bacl.datasets.prepare import prepare
from bacl.datasets.prepared import Prepared
from bacl.evaluation import Detections, evaluate
from bacl.method_settings.paper import Hallucination
from bacl.method_settings.registry import METHODS
from bacl.method_settings.registry import Variant as Settings
from bacl.metric_names import kind_of
from bacl.result_versions import version_of, versions_of
from bacl.settings import FROZEN_TRUNK, Dataset, Detector, Features, Recipe, Schedule

FILE = Path(__file__).with_name("golden.json")
DEFAULTS = Path(__file__).with_name("golden_defaults.json")
RELATIVE = 1e-4
"""What values on another machine may differ by."""
COUNTED = 1e-2
"""The same of `boxes` and `masks`, in which rounding decides over single boxes and pixels."""
STEPS = 3

Values = dict[str, list[float]]


@dataclass(frozen=True)
class Case:
    """Results that depend on parts of some versions; the first is the most likely to change."""

    versions: dict[str, int | str]
    values: Values


def cases(folder: Path) -> dict[str, Case]:
    """All cases by name, as this code computes them; `folder` takes what they need."""
    torch.set_num_threads(1)  # sums round otherwise with other numbers of threads
    prepared = prepare(Dataset(format="embedded", size="small"), folder)
    info = folder / prepared.digest / "dataset.json"
    found: dict[str, Case] = {}
    for name, make in CONFIGS.items():
        found |= _trained(name, make(info, folder), **_FACTS.get(name, {}))
    pasted = {"augmentation": "copy_paste", "copy_paste_size": 96}
    one = {"softmax": OWN["softmax"]}
    found |= _trained("copy_paste", config_of(info, one, **pasted), augmentation="copy_paste")
    for name in get_args(Recipe.model_fields["sampler"].annotation):
        config = config_of(info, one, sampler=name, repeat_threshold=0.3)
        dataset = DATASETS.build(config["train_dataloader"]["dataset"])
        order = [float(drawn.index) for drawn in islice(stream_of(config, dataset), 40)]
        found[f"order of {name}"] = Case(_versions(f"sampler.{name}"), {"images": order})
    found |= _trained("replay", _replayed(info, folder), features="replay")
    found["metrics"] = Case(_versions("evaluation"), _metrics(prepared))
    return found


_FACTS: dict[str, dict[str, Any]] = {
    "everything": {"sampler": "class_aware"},
    "cascade_rcnn": {"detector": "cascade_rcnn"},
    "mask_rcnn": {"detector": "mask_rcnn"},
    "resampling": {"proposal_nms": [0.9, 0.8, 0.7]},
}
"""What the configurations of CONFIGS are made from, where it is not the default."""


def _trained(
    name: str, config: dict[str, Any], detector: str = "faster_rcnn", **recipe: Any
) -> dict[str, Case]:
    """Losses of some steps and what is then found in an image: of what variants share, and of each
    variant."""
    model = _built(config)
    told: list[dict[str, Any]] = []
    train(config, model, STEPS, told=told)
    found = detected(model.eval(), config)

    facts = Recipe(schedule=Schedule(iterations=1), **recipe)
    about = Detector(type=detector)
    options = bank_heads(config)[0]["variants"]
    variants = list(model.banks()[0])
    result: dict[str, Case] = {}
    shared: Values = {}
    own: dict[str, Values] = {variant: {} for variant in variants}
    for loss in told[0]:
        values = [float(torch.as_tensor(losses[loss]).detach()) for losses in told]
        variant = next((v for v in variants if v in loss.split(".")[:-1]), None)
        if variant is not None:
            own[variant][loss.replace(f"{variant}.", "")] = values
        elif loss != "loss":
            shared[loss] = values
    for index, variant in enumerate(variants):
        versions = versions_of(about, facts, _settings(options[variant]))
        own[variant] |= _found(found[found.variant == index])
        result[f"{name}: {variant}"] = Case(dict(reversed(versions.items())), own[variant])
    trunk = [part for part in reversed(versions) if part.split(".")[0] in _OF_THE_TRUNK]
    return {f"{name}: trunk": Case(_versions(*trunk), shared), **result}


def _built(config: dict[str, Any]) -> Any:
    """The detector, with few proposals and scores far apart: rounding changes neither their order
    nor which are kept."""
    parts = config["model"]["train_cfg"], config["model"]["test_cfg"]
    parts[1]["rcnn"]["score_thr"] = 0.0
    for rpn in (parts[0]["rpn_proposal"], parts[1]["rpn"]):
        rpn |= {"nms_pre": 20, "max_per_img": 20}
    model = build(config)
    with torch.no_grad():
        model.rpn_head.rpn_cls.weight *= 10
    return model


def _replayed(info: Path, folder: Path) -> dict[str, Any]:
    """Configuration of a bank on features of a few images, which it has recorded."""
    split = rewritten(info, folder, lambda place, *row: row if place < IMAGES_REPLAYED else None)
    features = Features(views=1, negatives=8, val=False)
    recording = config_of_features(info, features, train_split=split)
    record(recording, _built(recording), folder / "features")
    freeze = [*FROZEN_TRUNK, "rpn_head"]
    variants = {name: OWN[name] for name in ("softmax", "by_confusion_matrix")}
    replay = config_of(
        info, variants, freeze, train_split=split, replayed=features, features="replay"
    )
    return on_features(replay, folder / "features")


IMAGES_REPLAYED = 12


def _versions(*parts: str) -> dict[str, int | str]:
    return {part: version_of(part) for part in parts}


_OF_THE_TRUNK = ("training", "detector", "sampler", "augmentation", "resampling", "features")


def _settings(options: dict[str, Any]) -> Settings:
    """A variant's settings, as far as its parts depend on them."""
    kind: Any = METHODS[options["method"]]
    return kind.model_construct(**{k: v for k, v in options.items() if k in kind.model_fields})


def _found(instances: Any) -> Values:
    """The best scores of an image, and the mean of all boxes by score."""
    scores = instances.scores.double().sort(descending=True).values
    mean = (instances.scores[:, None] * instances.bboxes).double().sum(dim=0) / scores.sum()
    values = {"scores": scores[:10].tolist(), "boxes": mean.tolist()}
    if "masks" in instances:
        values["masks"] = [float(mask_utils.area(instances.masks).mean())]
    return values


def _metrics(prepared: Prepared) -> Values:
    """Metrics of detections that are drawn: the objects of the split, moved, and some elsewhere."""
    draw = np.random.default_rng(0)
    index = Index(prepared.val.index)
    columns: list[tuple[int, int, float, list[float]]] = []
    for place in range(len(index)):
        entry = index.image(place)
        for label, box in zip(entry.labels.tolist(), entry.boxes.tolist(), strict=True):
            for score in (0.9, 0.4):
                moved = (np.array(box) + draw.normal(0, 4, 4)).round(3).tolist()
                label = label if draw.random() < 0.8 else int(draw.integers(6))
                columns.append((place, label, round(score * draw.random(), 6), moved))
    image, label, score, box = zip(*columns)
    boxes = np.array(box, dtype=np.float32)
    boxes[:, 2:] = boxes[:, 2:].clip(1)
    detections = Detections(
        np.array(image), np.array(label), np.array(score, dtype=np.float32), boxes
    )
    result = evaluate(
        Path(prepared.val.annotations),
        prepared.categories,
        detections,
        prepared.evaluation,
        prepared.groups,
    )
    return {name: [value] for name, value in result.metrics.items() if kind_of(name) == "AP"}


def defaults() -> dict[str, dict[str, Any]]:
    """Defaults of options, which keys of jobs leave out, and the version they hold for, by part."""
    parts: dict[str, Any] = {f"method.{name}": kind for name, kind in METHODS.items()}
    parts["hallucination"] = Hallucination
    return {
        part: {
            "version": version_of(part),
            "defaults": {
                name: default.model_dump(exclude_defaults=True)
                if isinstance(default := field.get_default(call_default_factory=True), BaseModel)
                else default
                for name, field in kind.model_fields.items()
                if not field.is_required()
            },
        }
        for part, kind in parts.items()
    }


def default_problem(part: str, now: dict[str, Any], recorded: dict[str, Any] | None) -> str | None:
    """What is to be done about a part's defaults, in a sentence; None where nothing is."""
    again = "record anew with `python tests/bacl/golden.py`"
    if recorded is None or recorded["version"] != now["version"]:
        return f"defaults of {part} are not recorded for version {now['version']}: {again}."
    before = recorded["defaults"]
    for name, value in now["defaults"].items():
        if name in before and before[name] != value:
            return (
                f"{part}: the default of {name} is {value!r}, was {before[name]!r}: raise the "
                f"version of {part} in bacl/result_versions.py, because keys of jobs leave "
                f"defaults out, and {again}."
            )
    if before.keys() != now["defaults"].keys():
        return f"{part} has gained or lost an option with a default: {again}."
    return None


def changed(case: Case, recorded: dict[str, Any]) -> str | None:
    """The first value that is not what was recorded, in words; None where there is none."""
    if case.values.keys() != recorded["values"].keys():
        return f"values are {', '.join(case.values)}, were {', '.join(recorded['values'])}"
    for name, values in case.values.items():
        before = recorded["values"][name]
        if len(values) != len(before):
            return f"{name} has {len(values)} values, had {len(before)}"
        relative = COUNTED if name in ("boxes", "masks") else RELATIVE
        for number, (now, then) in enumerate(zip(values, before, strict=True)):
            if not math.isclose(now, then, rel_tol=relative, abs_tol=1e-7):
                return f"{name}[{number}] is {now:.7g}, was {then:.7g}"
    return None


def problem(name: str, case: Case, recorded: dict[str, Any] | None) -> str | None:
    """What is to be done about a case, in a sentence; None where nothing is."""
    again = "record anew with `python tests/bacl/golden.py`"
    if recorded is None:
        return f"{name} is not recorded: {again}."
    difference = changed(case, recorded)
    if case.versions != recorded["versions"]:
        raised = [f"{p} {v}" for p, v in case.versions.items() if recorded["versions"].get(p) != v]
        gone = [part for part in recorded["versions"] if part not in case.versions]
        return f"{name}: versions changed ({', '.join(raised + gone)}): {again}."
    if difference is None:
        return None
    return (
        f"{name}: results changed ({difference}): if that is on purpose, raise the version of the "
        f"part that changed ({', '.join(case.versions)}) in bacl/result_versions.py and {again}; "
        "finished jobs that used the part are then trained again."
    )


def read(file: Path | None = None) -> dict[str, Any]:
    """What is recorded, by case; or, in `DEFAULTS`, by part."""
    file = file or FILE
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def write(file: Path, found: dict[str, Any]) -> None:
    """Record, an entry a line."""
    lines = (f"{json.dumps(name)}: {json.dumps(value)}" for name, value in found.items())
    file.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def main() -> None:
    """Record all cases; exit code 1 where results changed and no version did."""
    recorded = read()
    with tempfile.TemporaryDirectory(prefix="bacl-golden-") as folder:
        found = cases(Path(folder))
    refused = [
        sentence
        for name, case in found.items()
        if name in recorded
        and case.versions == recorded[name]["versions"]
        and (sentence := problem(name, case, recorded[name]))
    ]
    known = read(DEFAULTS)
    refused += [
        sentence
        for part, now in defaults().items()
        if (sentence := default_problem(part, now, known.get(part))) and "raise the" in sentence
    ]
    if refused:
        sys.exit("\n".join(refused))
    kept = {
        # what holds stays as it is, to the digit
        name: recorded[name]
        if name in recorded and problem(name, case, recorded[name]) is None
        else {"versions": case.versions, "values": case.values}
        for name, case in found.items()
    }
    write(FILE, kept)
    write(DEFAULTS, defaults())
    print(f"{len(kept)} cases in {FILE}")


if __name__ == "__main__":
    main()
