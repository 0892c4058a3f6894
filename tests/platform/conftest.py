"""What the platform's tests share: a tiny experiment on the embedded set, and its plan."""

import copy
import json
import math
import os
import pickle
import shutil
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import boto3
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from moto.server import ThreadedMotoServer
from pycocotools import mask as coco
from ranks import on_ranks
from rich.console import Console

from bacl.datasets.categories import Category
from bacl.datasets.prepare import prepare
from bacl.datasets.prepared import Prepared
from bacl.evaluation import Detections, Evaluator, Result
from bacl_platform.analysis.compare import Comparison, compare
from bacl_platform.analysis.contenders import contender
from bacl_platform.analysis.profiles import Analysis, analyse
from bacl_platform.analysis.results import Report, collect
from bacl_platform.plan.job import Job, Plan
from bacl_platform.plan.planner import make_plan
from bacl_platform.plan.sweep_plan import Preparation, SweepPlan, plan_sweeps
from bacl_platform.plan.trials import SweepFile
from bacl_platform.spec.load import load
from bacl_platform.store.names import JOB
from bacl_platform.store.store import Store

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


REPLAYED = (
    "stages.kept={kind: features, after: features}",
    "stages.quick={kind: classifier, after: kept, variants: {fcbl: {method: fcbl}, bce: "
    "{method: bce}}, recipe: {features: replay, schedule: {iterations: 12, batch: 2, lr: 0.02}}}",
)


COMPETING = """
name: competing
base: tiny.yaml
stage: heads
variant: bacl
metric: AP_f
fixed: {stages.heads.recipe.evaluate_every: 5, stages.heads.recipe.schedule.lr: 0.2}
scheduler: {type: pbt, resample: 0}
search: random
samples: 4
space:
  variant.alpha: {uniform: [0.1, 1]}
  variant.hallucination.samples: [2, 3, 4, 6]
"""


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """An experiment file that trains in seconds: 12 steps, checkpoints at 5, 10 and 12."""
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


ALPHAS = """
name: alphas
base: tiny.yaml
stage: heads
variant: bacl
space:
  variant.alpha: [0, 0.5, 0.85]
  variant.threshold: [0.6, 0.7]
"""


@pytest.fixture
def alphas() -> str:
    """A sweep file over `tiny`: a grid of six trials that share a bank."""
    return ALPHAS


@pytest.fixture
def sweep(tiny: Path) -> Callable[..., SweepFile]:
    """Writes a sweep file, that of `alphas` if not given, beside `tiny` and reads it."""

    def written(
        text: str = ALPHAS, name: str = "sweep.yaml", overrides: Sequence[str] = ()
    ) -> SweepFile:
        path = tiny.parent / name
        path.write_text(text)
        return SweepFile(path, overrides)

    return written


@pytest.fixture
def plan_sweep_files(store: Store) -> Callable[..., list[SweepPlan]]:
    """Plans sweep files, all their trials, for the empty store."""

    def planned(*files: SweepFile) -> list[SweepPlan]:
        trials = [file.trials(store) for file in files]
        return plan_sweeps(files, trials, Preparation(store), store)

    return planned


@pytest.fixture
def filled(
    sweep: Callable[..., SweepFile],
    plan_sweep_files: Callable[..., list[SweepPlan]],
    fill: Callable[..., None],
) -> Callable[..., SweepPlan]:
    """Plans a sweep file, publishes results with these APs of its cells and plans it again."""

    def published(
        text: str = ALPHAS, aps: Sequence[float] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
    ) -> SweepPlan:
        (found,) = plan_sweep_files(sweep(text))
        of_cells = {(c.trial.variant, c.seed): ap for c, ap in zip(found.cells, aps, strict=True)}
        of_features = {("features", seed): 0.0 for seed in {cell.seed for cell in found.cells}}
        fill(found.jobs, {**of_cells, **of_features})
        (found,) = plan_sweep_files(sweep(text))
        return found

    return published


@pytest.fixture
def replayed() -> list[str]:
    """Overrides by which `tiny` has two replayed variants, fcbl and bce, beside its exact ones."""
    return list(REPLAYED)


@pytest.fixture
def competing() -> str:
    """A sweep file over `tiny` in which four variants of one bank compete."""
    return COMPETING


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


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's tables without a run, which take it a second to make."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    from mlflow import MlflowClient

    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def as_nobody() -> Callable[..., AbstractContextManager[None]]:
    """Makes contexts without root's rights, which no permission holds back."""

    @contextmanager
    def entered() -> Iterator[None]:
        if os.geteuid() != 0:
            yield
            return
        os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(0)

    return entered


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """The address of an S3 server on this machine."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def url(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A place for a store in a bucket of its own; this machine's cache of it is in `tmp_path`."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("BACL_CACHE", str(tmp_path / "cache"))
    name = f"bucket-{uuid.uuid4().hex[:12]}"
    boto3.client("s3", region_name="us-east-1").create_bucket(Bucket=name)
    return f"s3://{name}/stores/one"


@pytest.fixture
def planned(tiny: Path, prepared: Prepared, store: Store) -> Callable[..., Plan]:
    """Plans the tiny experiment with overrides, for the empty store."""
    return lambda *overrides: make_plan(load(tiny, list(overrides)), prepared, store)


@pytest.fixture
def fill(prepared: Prepared, store: Store) -> Callable[..., None]:
    """Publishes jobs with made results, as the worker would.

    `aps` gives each variant's AP in its job's seed; groups have AP_r = AP / 4, AP_c = AP / 2,
    AP_f = AP, or no rare category with `rare=False`. A category's weights have its label as norm.
    Its detections (`detect`) find as large a part of the boxes as its AP, which they do not make.
    """
    return partial(_publish, prepared, store)


def _publish(
    prepared: Prepared,
    store: Store,
    jobs: list[Job],
    aps: dict[tuple[str, int], float],
    rare: bool = True,
) -> None:
    for job in jobs:
        folder = store.work(job.key) / "entry"
        folder.mkdir(parents=True)
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


@pytest.fixture
def two_seeds(planned: Callable[..., Plan]) -> Plan:
    """The tiny experiment with two seeds."""
    return planned("seeds=[0, 1]")


@pytest.fixture(scope="session")
def rival_aps() -> dict[tuple[str, int], float]:
    """APs of two seeds, for `fill`, in which bacl is better than softmax."""
    return _aps(features=(0.1, 0.1), bacl=(0.8, 0.84), softmax=(0.4, 0.4))


def _aps(**of_variants: tuple[float, float]) -> dict[tuple[str, int], float]:
    return {(name, seed): aps[seed] for name, aps in of_variants.items() for seed in (0, 1)}


@pytest.fixture(scope="session")
def study_of(
    prepared: Prepared, datasets: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[dict[tuple[str, int], float]], Report]:
    """Makes a finished study of two seeds, with these APs, in a store of its own."""

    def made(aps: dict[tuple[str, int], float]) -> Report:
        folder = tmp_path_factory.mktemp("study")
        (folder / "tiny.yaml").write_text(TINY)
        store = Store(folder / "store")
        store.root.mkdir()
        store.datasets.symlink_to(datasets)
        plan = make_plan(load(folder / "tiny.yaml", ["seeds=[0, 1]"]), prepared, store)
        _publish(prepared, store, plan.jobs, aps)
        return collect(plan, store, "")

    return made


@pytest.fixture(scope="session")
def rivals(study_of: Callable[..., Report], rival_aps: dict[tuple[str, int], float]) -> Report:
    """A study in which bacl is better than softmax; not to be changed."""
    return study_of(rival_aps)


@pytest.fixture(scope="session")
def compared(rivals: Report) -> Comparison:
    """Softmax and bacl of `rivals`."""
    return compare(
        contender(rivals, "softmax"), contender(rivals, "bacl"), 120, Console(quiet=True)
    )


@pytest.fixture(scope="session")
def flawed(study_of: Callable[..., Report]) -> Report:
    """A study in which features calls all by wrong names and a seed of bacl is right everywhere;
    not to be changed."""
    return study_of(_aps(features=(0.0, 0.0), bacl=(1.0, 0.6), softmax=(0.4, 0.4)))


@pytest.fixture(scope="session")
def analysed(flawed: Report) -> Analysis:
    """What lies behind the AP in `flawed`."""
    return analyse(flawed, Console(quiet=True))


@pytest.fixture(scope="session")
def give_masks(prepared: Prepared) -> Callable[[Report], None]:
    """Gives all results of a study masks: the upper thirds of their boxes. AP of masks is said to
    be that of boxes."""

    def given(study: Report) -> None:
        content = json.loads(Path(prepared.val.annotations).read_text(encoding="utf-8"))
        sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
        for result in study.results:
            file = result.folder / "detections.parquet"
            table = pq.read_table(file)
            masks = []
            for row in table.to_pylist():
                x, y, width, height = (row[side] for side in ("x", "y", "width", "height"))
                outline = [x, y, x + width, y, x + width, y + height / 3, x, y + height / 3]
                masks.append(coco.frPyObjects([outline], *sizes[row["image"]])[0]["counts"])
            pq.write_table(table.append_column("mask", pa.array(masks, pa.binary())), file)
            result.metrics.update({f"mask_{k}": v for k, v in list(result.metrics.items())})
            for category in result.categories:
                category["mask_AP"] = category["AP"]

    return given


@pytest.fixture(scope="session")
def masked_study(study_of: Callable[..., Report], give_masks: Callable[[Report], None]) -> Report:
    """The study `flawed` with masks, which features lacks with one seed; not to be changed."""
    study = study_of(_aps(features=(0.0, 0.0), bacl=(1.0, 0.6), softmax=(0.4, 0.4)))
    give_masks(study)
    bare = study.of("features")[1]
    for name in [name for name in bare.metrics if name.startswith("mask_")]:
        del bare.metrics[name]
    return study


@pytest.fixture(scope="session")
def masked_analysis(masked_study: Report) -> Analysis:
    """What lies behind the AP of boxes and masks in `masked_study`."""
    return analyse(masked_study, Console(quiet=True))


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
    detect(prepared, ap, folder / "detections.parquet")


def detect(prepared: Prepared, quality: float, path: Path) -> None:
    """Writes a detection on each validation box, nearly on it: a share `quality` of them (from the
    front of each category) rightly named with score 0.9, the others as the next category and
    with score 0.5."""
    content = json.loads(Path(prepared.val.annotations).read_text(encoding="utf-8"))
    annotations = content["annotations"]
    total = Counter(annotation["category_id"] for annotation in annotations)
    seen: Counter[int] = Counter()
    rows = []
    for annotation in annotations:
        own = annotation["category_id"]
        right = seen[own] < quality * total[own]
        seen[own] += 1
        called = own if right else (own + 1) % len(prepared.categories)
        x, y, width, height = annotation["bbox"]
        box = (x + 0.1, y, width, height)
        rows.append((annotation["image_id"], called, 0.9 if right else 0.5, *box))
    write_detections(rows, path)


def write_detections(rows: list[tuple], path: Path) -> None:
    """Rows of image, label, score, x, y, width, height as a parquet file."""
    names = ("image", "label", "score", "x", "y", "width", "height")
    types = [np.int32, np.int32, *[np.float32] * 5]
    columns = [np.array(column, kind) for column, kind in zip(zip(*rows), types)]
    pq.write_table(pa.table(columns, names=names), path)


@dataclass(frozen=True)
class Trial:
    """A small random split, annotated for some categories an image, and a run's detections."""

    content: dict[str, Any]
    rows: list[tuple]
    mode: Literal["lvis", "coco"]
    categories: list[Category]

    def evaluator(self, folder: Path) -> Evaluator:
        path = folder / f"{self.mode}.json"
        path.write_text(json.dumps(self.content))
        return Evaluator(path, self.categories, self.mode)

    def untied(self) -> "Trial":
        """Without equal scores, whose order each evaluation may choose."""
        rows = [(*row[:2], row[2] + 1e-6 * k, *row[3:]) for k, row in enumerate(self.rows)]
        return replace(self, rows=rows)

    @property
    def detections(self) -> Detections:
        image, label, score, *box = (np.array(column) for column in zip(*self.rows))
        return Detections(image, label, score, np.stack(box, axis=1))


@pytest.fixture
def trial() -> Callable[..., Trial]:
    """Makes trials by seed: right, doubled, misplaced, misnamed and random detections, equal
    scores, crowds (COCO), absent and not exhaustively annotated categories (LVIS). The ids that
    categories have in the annotation file are not their labels."""

    def make(seed: int, mode: Literal["lvis", "coco"] = "lvis", images: int = 14) -> Trial:
        generator = np.random.default_rng(seed)
        ids = [2, 3, 5, 7, 11]
        labels = list(range(len(ids)))
        content: dict[str, Any] = {"images": [], "annotations": [], "categories": []}
        rows = []
        for image in range(images):
            present = generator.choice(labels, generator.integers(0, 4), replace=False)
            absent = [one for one in labels if one not in present and generator.random() < 0.5]
            vague = [int(one) for one in present if generator.random() < 0.3]
            content["images"].append(
                {
                    "id": image,
                    "file_name": f"{image}.png",
                    "width": 100,
                    "height": 100,
                    "neg_category_ids": absent,
                    "not_exhaustive_category_ids": vague,
                }
            )
            for own in generator.choice(present, 5) if len(present) else []:
                box = np.round([*generator.uniform(0, 60, 2), *generator.uniform(10, 40, 2)], 1)
                crowd = mode == "coco" and generator.random() < 0.15
                content["annotations"].append(
                    {
                        "id": len(content["annotations"]) + 1,
                        "image_id": image,
                        "category_id": int(own),
                        "bbox": box.tolist(),
                        "area": float(box[2] * box[3]),
                        "iscrowd": int(crowd),
                    }
                )
                for _ in range(generator.integers(0, 4)):
                    called = own if generator.random() < 0.6 else generator.choice(labels)
                    shift = generator.choice([0.02, 0.15, 0.4]) * np.tile(box[2:], 2)
                    moved = box + generator.normal(size=4) * shift
                    score = round(generator.random(), 2)
                    rows.append((image, int(called), score, *moved[:2], *np.maximum(moved[2:], 1)))
            for _ in range(3):
                far = [*generator.uniform(0, 60, 2), *generator.uniform(5, 40, 2)]
                rows.append(
                    (image, int(generator.choice(labels)), round(generator.random(), 2), *far)
                )
        names = zip(ids, "rrcff")
        categories = [
            Category(id=one, name=f"c{one}", frequency=group, image_count=one, instance_count=one)
            for one, group in names
        ]
        content["categories"] = [
            category.model_dump() | {"id": label} for label, category in enumerate(categories)
        ]
        return Trial(content, rows, mode, categories)

    return make


@pytest.fixture
def masked() -> Callable[[Trial], tuple[Trial, Detections]]:
    """Gives a trial's boxes and detections masks: the right half of the box, and the middle half
    of some, so that masks overlap otherwise than their boxes."""

    def polygon(number: int, box: np.ndarray) -> list[float]:
        x, y, width, height = np.maximum(box, 1e-3)
        left, right = ((0.5, 1), (0.25, 0.75))[number % 3 == 0]
        x1, x2 = x + left * width, x + right * width
        return [x1, y, x2, y, x2, y + height, x1, y + height]

    def make(trial: Trial) -> tuple[Trial, Detections]:
        content = copy.deepcopy(trial.content)
        for annotation in content["annotations"]:
            outline = polygon(annotation["id"], np.array(annotation["bbox"]))
            annotation["segmentation"] = [outline]
            if annotation["iscrowd"]:
                (annotation["segmentation"],) = coco.frPyObjects([outline], 100, 100)
                counts = annotation["segmentation"]["counts"].decode()
                annotation["segmentation"]["counts"] = counts
        found = trial.detections
        outlines = [[polygon(k, box)] for k, box in enumerate(found.bbox)]
        counts = [coco.frPyObjects(outline, 100, 100)[0]["counts"] for outline in outlines]
        masks = np.array(counts, dtype=object)
        return replace(trial, content=content), replace(found, mask=masks)

    return make


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store whose jobs nothing disturbs, so that each is trained once for all tests."""
    return Store(tmp_path_factory.mktemp("undisturbed"))


@pytest.fixture
def finished(undisturbed: Store, store: Store) -> Callable[[Job], None]:
    """Gives the test's store a job's entry from the undisturbed store."""

    def copied(job: Job) -> None:
        from bacl_platform.train import worker

        assert worker.train(job, undisturbed, lambda *_: None, lambda *_: None) is None
        shutil.copytree(undisturbed.entry(job.key), store.entry(job.key))

    return copied


@pytest.fixture
def on_two_ranks(tmp_path: Path) -> Callable[..., list[str | None]]:
    """Trains a job on two ranks without Ray and gives the result of each.

    `stopped` variants leave at step 10. `machines`: variables of each rank's environment, as on a
    machine of its own, where BACL_CACHE is among them.
    """

    def trained(
        job: Job,
        store: Store,
        stopped: tuple[str, ...] = (),
        asked_to_stop: bool = False,
        machines: Sequence[Mapping[str, str]] = ({}, {}),
    ) -> list[str | None]:
        folder = tmp_path / f"ranks_{uuid.uuid4().hex}"
        folder.mkdir()
        on_ranks(_train_share, 2, folder, job, store, stopped, asked_to_stop, machines)
        return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]

    return trained


def _train_share(
    folder: Path,
    job: Job,
    store: Store,
    stopped: tuple[str, ...],
    asked_to_stop: bool,
    machines: Sequence[Mapping[str, str]],
) -> None:
    from bacl_platform.train import worker

    rank = torch.distributed.get_rank()
    os.environ |= {"LOCAL_RANK": str(rank), **machines[rank]}
    store = pickle.loads(pickle.dumps(store))  # as the machine gets it
    told = worker.train(
        job, store, lambda *_: None, lambda *_: None, lambda _: stopped, lambda: asked_to_stop
    )
    (folder / f"{rank}.json").write_text(json.dumps(told))


@pytest.fixture
def odd_categories(prepared: Prepared) -> list[Category]:
    """The prepared ones with ids as annotation files may have them: with gaps, or text."""
    ids = [3, 10**20, *(f"no. {label}" for label in range(2, len(prepared.categories)))]
    return [
        category.model_copy(update={"id": own})
        for category, own in zip(prepared.categories, ids, strict=True)
    ]


@pytest.fixture
def publish_untrained(store: Store, odd_categories: list[Category]) -> Callable[[Job], Path]:
    """Gives the test's store an entry of a job whose bank has not been trained, with nothing in it
    but the exported variants."""

    def published(job: Job) -> Path:
        import bacl.register  # noqa: F401

        # isort: split
        from mmdet.registry import MODELS
        from mmdet.utils import register_all_modules
        from mmengine.config import ConfigDict

        from bacl.export import export_variants

        register_all_modules(init_default_scope=True)
        model = MODELS.build(ConfigDict(job.config["model"]))
        torch.manual_seed(0)
        model.init_weights()
        folder = store.work(job.key) / "entry/variants"
        export_variants(job.config, model.state_dict(), odd_categories, folder)
        return store.publish(job.key, folder.parent)

    return published


@pytest.fixture
def exported_variant(
    planned: Callable[..., Plan], publish_untrained: Callable[[Job], Path]
) -> Path:
    """The folder of a variant as a store exports it, of an untrained bank."""
    return publish_untrained(planned().jobs[1]) / "variants/softmax"
