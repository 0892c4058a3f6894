"""A step on stored features beside the step of the same bank over its trunk.

One image of 12 boxes at a time, R50, C = 1203; of its regions those are stored that a trained RPN
would give, 7 of objects for each box, and 64 of background. Also what making features takes beside
walking the same images forward, how large they are, and the step of the embedded demo's bank.
"""

import copy
import tempfile
from pathlib import Path
from typing import Any

import torch
from mmengine.structures import InstanceData
from torch import Tensor

import bacl.register  # noqa: F401  before anything imports mmdet.models

# isort: split
from mmdet.structures.bbox import bbox2roi

from bacl.config import features_config, stage_config
from bacl.detector.layers import layers
from bacl.features import shards
from bacl.features.observing import Observer
from bacl.features.recording import Recorder
from bacl.features.stored import collate_views
from bacl.method_settings.paper import BACL, BCE, FCBL, Hallucination, Softmax
from bacl.settings import Detector, Features
from bacl_platform.bench.embedded import STEPS, experiment
from bacl_platform.bench.measure import Row, Setting, in_turns
from bacl_platform.bench.training import BOXES, R50, Training, batch_of, build
from bacl_platform.plan.stored import POSITIVES
from bacl_platform.spec.load import load

STORED = Features()
CATEGORIES_SHOWN = 4
"""Categories that the boxes of an image are of: 3.4 in LVIS v1.0."""
MEGABYTES = 0.35
"""Most that a view of an LVIS-like image may take, D = 1024."""
FROZEN = ["backbone", "neck", "rpn_head", "roi_head.bbox_head.shared_fcs"]


def measure(setting: Setting, detector: Detector = R50) -> list[Row]:
    """Time of replayed steps, of making features, and their size; then on the embedded set."""
    return [*beside_trunk(setting, detector), _embedded(setting, _repeat(setting))]


def beside_trunk(setting: Setting, detector: Detector = R50) -> list[Row]:
    """Time of replayed steps beside those over the trunk, of making features, and their size."""
    repeat, image = _repeat(setting), "x".join(map(str, setting.image))
    rows = []
    for count, limit in ((1, 1 / 40), (8, 1 / 12)):
        exact = Training(count, setting, detector)
        view = _view(exact, setting)
        replayed = _Replayed(exact, view)
        ours, theirs = in_turns([replayed.step, exact.step], repeat, 1, setting.device)
        what = f"{count} variant{'s' if count > 1 else ''}, {image}"
        bar = limit if setting.full else None  # the smaller an image, the less its trunk takes
        rows.append(Row(f"replay_{count}", what, ours, "the exact step", theirs, bar))
    return [*rows, _making(exact, setting, repeat), _size(view)]


def _repeat(setting: Setting) -> int:
    return 3 if setting.repeat is None else setting.repeat


class _Replayed:
    """The bank of a training on its stored view."""

    def __init__(self, exact: Training, view: dict[str, Any]) -> None:
        config = exact.config()
        config["model"] |= {"type": "ReplayDetector", "freeze": FROZEN, "layers": ["fc2"]}
        self.model: Any = build(config["model"]).to(exact.setting.device).train()
        self.model.load_state_dict(exact.model.state_dict())
        self.optimizer = exact.optimizer_of(self.model)
        self.views = [view]

    def step(self) -> None:
        """One optimizer step, the batch's collation included."""
        self.model.train_step(collate_views(self.views), self.optimizer)


def _view(exact: Training, setting: Setting) -> dict[str, Any]:
    """What is stored of the image that a training steps on, with the regions of a trained RPN."""
    model: Any = exact.model
    (row,) = Observer(model, STORED).views(_batch(1, setting))
    exact.model.train()
    positives, negatives = int(row["positives"]), len(row["labels"]) - int(row["positives"])
    again = torch.arange(POSITIVES * BOXES) % positives
    chosen = torch.cat([again, positives + torch.arange(negatives)])
    row |= {name: row[name][chosen] for name in ("labels", "fc2")}
    row |= {name: row[name][again] for name in ("priors", "truths")}
    view: dict[str, Any] = {name: value.cpu() for name, value in row.items()}
    for name in ("rows", "shown", "index"):
        del view[name]
    view |= {"position": 0, "drawn_for": None, "id": 0}
    return view | {"stands_for": float(row["stands_for"]), "positives": len(again)}


def _batch(images: int, setting: Setting) -> dict[str, list[Any]]:
    """A batch as the walk over images hands it on."""
    batch = batch_of(images, setting)
    for sample in batch["data_samples"]:
        sample.set_metainfo({"index": sample.img_id})
        of_image = sample.gt_instances.labels[:CATEGORIES_SHOWN]
        sample.gt_instances.labels = of_image[torch.arange(BOXES) % CATEGORIES_SHOWN]
    return batch


def _making(exact: Training, setting: Setting, repeat: int) -> Row:
    """Features of two images beside their walk through trunk, RPN and box head alone."""
    model: Any = exact.model
    observer, batch = Observer(model, STORED), _batch(2, setting)

    @torch.no_grad()
    def walk() -> Tensor:
        data = model.data_preprocessor(copy.deepcopy(batch), training=False)
        x = model.extract_feat(data["inputs"])
        proposals: list[InstanceData] = model.propose(x, data["data_samples"])
        boxes = [proposed.bboxes[: exact.detector.roi_samples] for proposed in proposals]
        extractor = model.roi_head.bbox_roi_extractor
        pooled = extractor(x[: extractor.num_inputs], bbox2roi(boxes))
        return layers(model.roi_head.bbox_head, pooled)["fc2"]

    ours, theirs = in_turns(
        [lambda: observer.views(copy.deepcopy(batch)), walk], repeat, 1, setting.device
    )
    image = "x".join(map(str, setting.image))
    return Row("replay_features", f"2 images, {image}", ours, "forward alone", theirs, 1.15)


def _size(view: dict[str, Any]) -> Row:
    """Megabytes of a view beside the most that it may take."""
    tensors = [value for value in view.values() if isinstance(value, Tensor)]
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors) / 1e6
    rows = len(view["labels"])
    return Row("replay_size", f"{rows} regions of a view", size, "the bar", MEGABYTES, 1, "MB")


def _embedded(setting: Setting, repeat: int) -> Row:
    """The step of four variants on the embedded set."""
    from mmdet.registry import DATA_SAMPLERS, DATASETS
    from mmengine.dataset import pseudo_collate
    from mmengine.registry import DefaultScope

    from bacl.datasets.prepare import prepare

    first, second, size, drawn = STEPS[setting.image]
    with (
        DefaultScope.overwrite_default_scope("mmdet"),
        tempfile.TemporaryDirectory(prefix="bacl-bench-") as name,
    ):
        folder = Path(name)
        (folder / "bench.yaml").write_text(experiment(size, first, second, drawn, 1), "utf-8")
        plain = load(folder / "bench.yaml")
        stage: Any = plain.stages["classifier"]
        prepared = prepare(plain.dataset, folder / "cache")
        info = Path(prepared.train.index).with_name("dataset.json")
        variants: dict[str, Any] = {
            "bacl": BACL(method="bacl", hallucination=Hallucination(categories=drawn)),
            "fcbl": FCBL(method="fcbl"),
            "bce": BCE(method="bce"),
            "softmax": Softmax(method="softmax"),
        }
        common = (plain.detector, prepared, info, stage.recipe)
        recorded = features_config(*common, STORED, 0)
        detector: Any = build(recorded["model"])
        recorder = Recorder(detector, recorded)
        parts = [part for part in recorder.parts() if part.split == "train"]
        (folder / "shards").mkdir()
        for part, content in recorder.walk(parts):
            shards.write(folder / "shards", part, content)
        steps = []
        for stored in (STORED, None):
            config = stage_config(*common, variants, FROZEN, 0, 1, replayed=stored)
            if stored:
                config["train_dataloader"]["dataset"]["folder"] = str(folder / "shards")
            dataset = DATASETS.build(config["train_dataloader"]["dataset"])
            sampler = DATA_SAMPLERS.build(
                config["train_dataloader"]["sampler"], default_args={"dataset": dataset}
            )
            steps.append(
                _stepping(
                    config, dataset, iter(sampler), collate_views if stored else pseudo_collate
                )
            )
        ours, theirs = in_turns(steps, 5 * repeat, 1, setting.device)
    return Row("replay_embedded", "4 variants, embedded", ours, "the exact step", theirs, 1 / 20)


def _stepping(config: dict[str, Any], dataset: Any, stream: Any, collate: Any) -> Any:
    """A function that loads the next batch of a stage and makes its step."""
    from mmengine.registry import OPTIM_WRAPPERS

    model: Any = build(config["model"]).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    wrapper = dict(config["optim_wrapper"])
    optimizer = torch.optim.SGD(trained, lr=1e-4, momentum=0.9)
    optim = OPTIM_WRAPPERS.build({**wrapper, "optimizer": optimizer})
    size = config["train_dataloader"]["batch_size"]
    return lambda: model.train_step(collate([dataset[next(stream)] for _ in range(size)]), optim)
