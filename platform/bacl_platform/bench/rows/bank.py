"""A training step of banks of 8 and of 32 variants beside one of a single variant."""

from dataclasses import replace

from bacl.settings import Detector
from bacl_platform.bench.measure import IMAGES, Row, Setting, in_turns
from bacl_platform.bench.memory import peak_memory
from bacl_platform.bench.training import R50, Training


def measure(setting: Setting, detector: Detector = R50) -> list[Row]:
    """Time of a step, its parts, and peak memory."""
    ones, eights, many = (Training(count, setting, detector) for count in (1, 8, 32))
    repeat = 3 if setting.repeat is None else setting.repeat
    one, eight, thirty_two = in_turns(
        [ones.step, eights.step, many.step], repeat, 1, setting.device
    )
    # Whatever the steps' image is: beside a small one, the variants' own state weighs more.
    whole = replace(setting, image=IMAGES["full"])
    memory = [peak_memory(count, whole, detector) for count in (1, 8)]
    image = "x".join(map(str, setting.image))
    parts = {
        f"bank of {training.count}": training.parts(repeat) for training in (ones, eights, many)
    }
    return [
        Row("bank_8", f"8 variants, {image}", eight, "1 variant", one, 1.5, parts=parts),
        Row("bank_32", f"32 variants, {image}", thirty_two, "1 variant", one, None),
        Row(
            "bank_8_memory",
            f"peak, {'x'.join(map(str, whole.image))}",
            memory[1],
            "1 variant",
            memory[0],
            1.2,
            "MiB",
        ),
    ]
