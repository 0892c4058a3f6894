"""Training steps of two images as they run on a GPU: stages, banks, precisions, memory layouts.

MMDetection's own detector steps beside ours, in turns, in the same precision.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from bacl.settings import Detector
from bacl_platform.bench.measure import Row, Setting, in_turns
from bacl_platform.bench.training import R50, RECIPE, Training

IMAGES = 2
BANKS = {1: 1.1, 8: 1.3, 32: 2.0}
"""By the number of variants, the most that a step may take beside MMDetection's own."""


def measure(setting: Setting, detector: Detector = R50) -> list[Row]:
    """Steps in float32, on a GPU with TF32; then what bfloat16, another memory layout and a
    compiled trunk change."""
    rows = [*steps("float32", setting, detector), *steps("bfloat16", setting, detector)]
    rows += channels_last(setting, detector)
    if setting.device == "cuda":  # what is compiled for a CPU says nothing about a GPU
        rows += compiled(setting, detector)
    return rows


def steps(precision: str, setting: Setting, detector: Detector = R50) -> list[Row]:
    """Steps of both stages beside MMDetection's, their parts and, on a GPU, their peak memory."""
    recipe = RECIPE.model_copy(update={"precision": precision})
    make = partial(Training, setting=setting, detector=detector, recipe=recipe, images=IMAGES)
    rows = []
    with tf32():
        whole = make(1, end_to_end=True)
        rows += _beside(f"stage1_{precision}", "softmax, end to end", whole, whole.stock(), None)
        del whole
        theirs = make(1).stock()
        for count, limit in BANKS.items():
            what = f"{count} variant{'s' if count > 1 else ''}, frozen trunk"
            rows += _beside(f"stage2_{count}_{precision}", what, make(count), theirs, limit)
    return rows


def channels_last(setting: Setting, detector: Detector = R50) -> list[Row]:
    """A step of one variant with images and features laid out channels-last, beside as they are."""
    rows = []
    for precision in ("float32", "bfloat16"):
        recipe = RECIPE.model_copy(update={"precision": precision})
        last = recipe.model_copy(update={"channels_last": True})
        with tf32():
            ours, theirs = (
                Training(1, setting, detector, recipe=one, images=IMAGES) for one in (last, recipe)
            )
            found = _times([ours.step, theirs.step], setting)
        what = _with_rate("1 variant, frozen trunk", found[0])
        rows.append(Row(f"channels_last_{precision}", what, found[0], "contiguous", found[1], None))
    return rows


def compiled(setting: Setting, detector: Detector = R50) -> list[Row]:
    """A step of one variant whose frozen backbone and neck `torch.compile` has compiled."""
    rows = []
    for precision in ("float32", "bfloat16"):
        recipe = RECIPE.model_copy(update={"precision": precision})
        make = partial(Training, 1, setting, detector, recipe=recipe, images=IMAGES)
        with tf32():
            ours, theirs = make(), make()
            model: Any = ours.model
            model.backbone.compile()
            model.neck.compile()
            found = _times([ours.step, theirs.step], setting)
        what = _with_rate("1 variant, frozen trunk", found[0])
        rows.append(Row(f"compiled_{precision}", what, found[0], "as it is", found[1], None))
    return rows


@contextmanager
def tf32() -> Iterator[None]:
    """Within, a GPU may multiply float32 in TF32, as trainings of detectors usually do."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def _beside(
    name: str, what: str, ours: Training, theirs: Training, limit: float | None
) -> list[Row]:
    setting = ours.setting
    found = _times([ours.step, theirs.step], setting)
    repeat = 2 if setting.repeat is None else setting.repeat
    parts = {what: ours.parts(repeat), "MMDetection": theirs.parts(repeat)}
    rows = [
        Row(name, _with_rate(what, found[0]), found[0], "MMDetection", found[1], limit, parts=parts)
    ]
    if setting.device == "cuda":
        memory = [_peak(ours), _peak(theirs)]
        rows.append(
            Row(f"{name}_memory", what, memory[0], "MMDetection", memory[1], None, unit="MiB")
        )
    return rows


def _times(steps: list[Callable[[], None]], setting: Setting) -> list[float]:
    on_gpu = setting.device == "cuda"
    repeat = (10 if on_gpu else 2) if setting.repeat is None else setting.repeat
    return in_turns(steps, repeat, 3 if on_gpu else 1, setting.device)


def _with_rate(what: str, milliseconds: float) -> str:
    return f"{what}, {1000 * IMAGES / milliseconds:.3g} images/s"


def _peak(training: Training) -> float:
    """Peak MiB of GPU memory that one training holds in a step, without what else is allocated."""
    tensors = [*training.model.parameters(), *training.model.buffers()]
    for state in training.optimizer.optimizer.state.values():
        tensors += [value for value in state.values() if isinstance(value, torch.Tensor)]
    own = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    training.step()
    torch.cuda.synchronize()
    return float(own + torch.cuda.max_memory_allocated() - before) / 2**20
