"""Where the host waits for the device in a step of the classifier stage, and for what reason.

`waits("cuda", small)` asks PyTorch, whose synchronisation debug mode warns of each wait.
`waits("cpu", small)` runs the same steps on a device that is simulated on the CPU (`simulated`),
and watches for operators that need values there and for copies (`waiting`). `tests/bacl` and
`platform` have to be on the module path.
"""

import statistics
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import patch

import bacl.register  # noqa: F401  before anything imports mmdet.models

# isort: split
import torch
from everything import everything
from mmdet.registry import DATASETS
from mmengine.optim import OptimWrapper
from saved import saved_storages
from simulated import DEVICE, simulated
from training import batch_of, build, config_of, stream_of
from waiting import Waits

from bacl.config import stage_config
from bacl.datasets.prepare import prepare
from bacl.method_settings.paper import BACL, BCE, FCBL, Hallucination, Softmax
from bacl.settings import FROZEN_TRUNK, Dataset, Detector, Recipe, Schedule

PAPER = {
    "bacl": BACL(method="bacl"),
    "fcbl": FCBL(method="fcbl"),
    "bce": BCE(method="bce"),
    "softmax": Softmax(method="softmax"),
}
WARM_UP = 2
"""Steps before the one that is watched: FASA makes features from its second epoch on, and adapts
its chances when it has two behind it."""

REASONS = {
    "bacl/methods/fasa.py:make": "How much noise is drawn depends on which categories are, and "
    "drawing it for all would change the draws of every run so far.",
    "bacl/methods/fasa.py:terms": "Once, at the first step of a run, the number of the epoch is "
    "read from the state that a checkpoint may have brought.",
    "bacl/methods/fasa.py:adapt": "Once an epoch, whether any held-out samples were seen decides "
    "whether chances change.",
    "bacl/methods/fasa.py:groups": "Once an epoch, scikit-learn clusters prototypes on the CPU.",
    "bacl/methods/memory.py:add": "A step pushes as many features as its images showed, and where "
    "each goes depends on how many of its category came before; doing without that number would "
    "take a write of every row of the memory.",
    "bacl/methods/rio.py:replay": "How many features are replayed depends on which rare categories "
    "an image shows and on how many of them are in memory: one wait a step for both.",
    "bacl/detector/operators.py:nms": "Suppression returns as many boxes as it keeps.",
}
"""Why the host waits, by the file and the function that does."""

SEES = {
    "cuda": "What PyTorch's synchronisation debug mode warns of, in backward as well.",
    "cpu": "On a simulated device: operators that need values, and copies from and to the device "
    "that do not say non_blocking. Not what a kernel waits for within, and not whether memory is "
    "pinned.",
}
_PACKAGES = {
    name: str(Path(find_spec(name).origin).parent) + "/"
    for name in ("bacl", "mmdet", "mmengine", "mmcv")
}
_OVER_MMDETECTION = (
    "bacl/detector/bank.py",
    "bacl/draws.py",
    "bacl/detector/resampling.py",
    "bacl/datasets/",
)
"""Parts of MMDetection that call what they are made from: what waits in there is MMDetection's."""


def waits(device: str, small: bool) -> dict:
    """Waits of one step of two banks by "file:line (function)", and the reasons for those of ours.

    device: "cuda" or "cpu". small: a tiny detector for both banks; otherwise R50 on an image of
    800x1333 with 1203 categories for the first, that of the paper. `unexplained` lists the places
    in `bacl/` that REASONS has nothing about. `generators` says how many generators a step makes,
    by device, and `generator_us` how long it takes to make and seed one on `device`, in
    microseconds.
    """
    steps, generators = {}, {}
    with tempfile.TemporaryDirectory() as folder, _device(device) as there:
        dataset_info = _dataset_info(Path(folder))
        stepped = {
            "bacl fcbl bce softmax": (
                _tiny(config_of(dataset_info, _small(PAPER)), there) if small else _full(there)
            ),
            "all methods": _tiny(everything(dataset_info, Path(folder)), there),
        }
        for name, step in stepped.items():
            for _ in range(WARM_UP):
                step()
            found: Counter[str] = Counter()
            with _watched(device, found), _counted() as made:
                step()
            steps[name] = dict(found.most_common())
            generators[name] = made
    ours = sorted({place for found in steps.values() for place in found if place[:5] == "bacl/"})
    return {
        "device": device,
        "sees": SEES[device],
        "step": steps,
        "explained": {p: REASONS[_key(p)] for p in ours if _key(p) in REASONS},
        "unexplained": [place for place in ours if _key(place) not in REASONS],
        "generators": generators,
        "generator_us": generator_us(device),
    }


def memory(device: str, small: bool) -> dict:
    """What training all of a detector keeps for backward beside training the classifiers alone.

    On the CPU, bytes that a forward pass keeps of its own; on CUDA, bytes of a step's peak above
    what is allocated before it. Both have the bank of the paper; `small` as for `waits`.
    """
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        dataset_info = _dataset_info(Path(folder))
        for stage, freeze in (("stage 1", ()), ("stage 2", FROZEN_TRUNK)):
            if small:
                step = _tiny(config_of(dataset_info, _small(PAPER), freeze=freeze), device)
            else:
                step = _full(device, freeze)
            if device == "cuda":
                for _ in range(WARM_UP):
                    step()
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
                before = torch.cuda.memory_allocated()
                step()
                found[stage] = torch.cuda.max_memory_allocated() - before
            else:
                found[stage] = sum(saved_storages(step.model, step).values())
            del step
    return {
        "device": device,
        "bytes": found,
        "what": "a step's peak" if device == "cuda" else "kept for backward",
    }


def generator_us(device: str, count: int = 300) -> float:
    """Microseconds that it takes to make and seed a generator on a device, the median."""
    taken = []
    for seed in range(count):
        start = time.perf_counter()
        torch.Generator(device).manual_seed(seed)
        taken.append(1e6 * (time.perf_counter() - start))
    return round(statistics.median(taken), 2)


def place_of(frame) -> str:
    """Who waits, "file:line (function)", given the frame in which it happens.

    The innermost frame in `bacl` or MMDetection and what it is made of. Where a method calls
    MMDetection, it is the method.
    """
    theirs = None
    for at, line in traceback.walk_stack(frame):
        name = at.f_code.co_name
        file = _inside(at.f_code.co_filename)
        if file is None or name.startswith("<"):
            continue
        place = f"{file}:{line} ({name})"
        if file.startswith("bacl/"):
            if theirs is None or not file.startswith(_OVER_MMDETECTION):
                return place
            return theirs
        theirs = theirs or place
    return theirs or "elsewhere"


def _inside(path: str) -> str | None:
    for name, folder in _PACKAGES.items():
        if path.startswith(folder):
            return f"{name}/{path.removeprefix(folder)}"
    return None


def _key(place: str) -> str:
    """ "file:function" of "file:line (function)"."""
    file, _, rest = place.partition(":")
    return f"{file}:{rest.split('(')[1].rstrip(')')}"


@contextmanager
def _device(device):
    """What tensors of a device are made on: a simulated one for the CPU."""
    if device != "cpu":
        yield torch.device(device)
        return
    with simulated():
        yield DEVICE


@contextmanager
def _watched(device, found):
    """Count waits by place into `found`."""
    if device == "cpu":
        with Waits(lambda _: found.update([place_of(sys._getframe(2))])):
            yield
        return

    def shown(message, *_):
        if "synchronizing CUDA operation" in str(message):
            found.update([place_of(sys._getframe(1))])

    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = shown
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode(before)


@contextmanager
def _counted():
    """How many generators are made within, by the type of their device."""
    made: dict[str, int] = {}
    make = torch.Generator

    def counted(device="cpu"):
        kind = torch.device(device).type
        kind = "simulated" if kind == DEVICE.type else kind
        made[kind] = made.get(kind, 0) + 1
        return make(device)

    with patch("torch.Generator", counted):
        yield made


def _dataset_info(folder):
    prepared = prepare(Dataset(format="embedded", size="small"), folder)
    return folder / prepared.digest / "dataset.json"


def _small(variants):
    """The variants with few made features."""
    few = Hallucination(categories=3, samples=4)
    return {**variants, "bacl": variants["bacl"].model_copy(update={"hallucination": few})}


class _Step:
    """Steps of a detector; `step()` makes the next."""

    def __init__(self, model, batches, device):
        self.model = model.to(device).train()
        self._batches = batches
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._optimizer = OptimWrapper(torch.optim.SGD(trained, 0.02, momentum=0.9))

    def __call__(self):
        self.model.train_step(next(self._batches), self._optimizer)


def _tiny(config, device):
    dataset = DATASETS.build(config["train_dataloader"]["dataset"])
    samples = iter(stream_of(config, dataset))
    batches = (batch_of(dataset, samples, 4) for _ in iter(int, 1))
    return _Step(build(config), batches, device)


def _full(device, freeze=FROZEN_TRUNK):
    from bacl_platform.bench.measure import IMAGES, Setting
    from bacl_platform.bench.training import CATEGORIES, Training
    from bacl_platform.tools.stand_in import stand_in

    recipe = Recipe(schedule=Schedule(iterations=1))
    prepared = stand_in(CATEGORIES)
    config = stage_config(
        Detector(), prepared, Path("-"), recipe, PAPER, list(freeze), 0, workers=1
    )
    setting = Setting(device=str(device), image=IMAGES["full"])
    training = Training(len(PAPER), setting, Detector(), build(config))
    return _Full(training)


class _Full:
    """Steps of a detector of the benches."""

    def __init__(self, training):
        self.model = training.model
        self._training = training

    def __call__(self):
        self._training.step()
