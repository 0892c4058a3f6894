"""Steps of the classifier stage: a bank beside one variant, ours beside MMDetection's."""

from dataclasses import replace

from bacl.settings import Detector
from bacl_platform.bench.measure import IMAGES, Row, Setting, in_turns
from bacl_platform.bench.memory import peak_memory
from bacl_platform.bench.training import R50, Training


def bank(setting: Setting, detector: Detector = R50) -> list[Row]:
    """Banks of 8 and of 32 BACL variants beside a bank of one: time, its parts, memory."""
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


def step(setting: Setting, detector: Detector = R50) -> list[Row]:
    """A step with one BACL variant beside MMDetection's own step with the same frozen parts."""
    ours = Training(1, setting, detector)
    theirs = ours.stock()
    repeat = 5 if setting.repeat is None else setting.repeat
    found = in_turns([ours.step, theirs.step], repeat, 1, setting.device)
    what = f"BACL, {'x'.join(map(str, setting.image))}"
    parts = {"ours": ours.parts(repeat), "MMDetection": theirs.parts(repeat)}
    return [Row("step", what, found[0], "MMDetection", found[1], 1.15, parts=parts)]
