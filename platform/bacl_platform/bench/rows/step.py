"""A training step with one BACL variant beside MMDetection's own with the same frozen parts."""

from bacl.settings import Detector
from bacl_platform.bench.measure import Row, Setting, in_turns
from bacl_platform.bench.training import R50, Training


def measure(setting: Setting, detector: Detector = R50) -> list[Row]:
    """Time of a step, and its parts on both sides."""
    if setting.config:
        detector = Detector(config=setting.config)
    ours = Training(1, setting, detector)
    theirs = ours.stock()
    repeat = 5 if setting.repeat is None else setting.repeat
    found = in_turns([ours.step, theirs.step], repeat, 1, setting.device)
    what = f"BACL, {setting.config or 'R50'}, {'x'.join(map(str, setting.image))}"
    parts = {"ours": ours.parts(repeat), "MMDetection": theirs.parts(repeat)}
    return [Row("step", what, found[0], "MMDetection", found[1], 1.15, parts=parts)]
