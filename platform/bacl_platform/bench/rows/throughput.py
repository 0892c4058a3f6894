"""Training steps of two images as they run on a GPU: stages, banks, precisions.

MMDetection's own detector steps beside ours, in turns, in the same precision.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch

from bacl.settings import Detector
from bacl_platform.bench.measure import Row, Setting, in_turns
from bacl_platform.bench.training import R50, RECIPE, Training

IMAGES = 2
BANKS = {1: 1.1, 8: 1.3, 32: 2.0}
"""By the number of variants, the most that a step may take beside MMDetection's own."""


def measure(setting: Setting, detector: Detector = R50) -> list[Row]:
    """Steps in float32, on a GPU with TF32, and in bfloat16."""
    return [*steps("float32", setting, detector), *steps("bfloat16", setting, detector)]


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
    found = times([ours.step, theirs.step], setting)
    repeat = 2 if setting.repeat is None else setting.repeat
    parts = {what: ours.parts(repeat), "MMDetection": theirs.parts(repeat)}
    rows = [
        Row(name, with_rate(what, found[0]), found[0], "MMDetection", found[1], limit, parts=parts)
    ]
    if setting.device == "cuda":
        memory = [_peak(ours), _peak(theirs)]
        rows.append(
            Row(f"{name}_memory", what, memory[0], "MMDetection", memory[1], None, unit="MiB")
        )
    return rows


def times(steps: list[Callable[[], None]], setting: Setting) -> list[float]:
    """Median milliseconds of each step, in turns."""
    on_gpu = setting.device == "cuda"
    repeat = (10 if on_gpu else 2) if setting.repeat is None else setting.repeat
    return in_turns(steps, repeat, 3 if on_gpu else 1, setting.device)


def with_rate(what: str, milliseconds: float) -> str:
    """What is measured, and how many images a second that is."""
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
