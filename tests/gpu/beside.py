"""A device beside the CPU: the same draws and the same proposals there, and what then is equal."""

from contextlib import contextmanager
from unittest.mock import patch

import torch
from pycocotools import mask as rle
from torch import Tensor
from torch.overrides import TorchFunctionMode

from bacl import draws

RELATIVE = 1e-3
"""What CUDA and the CPU may differ by, of what is compared."""
ROUNDED = 1e-6
"""Of a tensor's norm: what float32 leaves uncertain of a small move of large weights."""
ALIKE = 0.98
"""Share of detections, and ALIKE_PROPOSALS of proposals, that both must have found. Of two boxes
with scores equal to the last digits, rounding chooses the one that suppresses the other, and so
which of them is found. The RPN of a few steps scores all anchors nearly alike; the classifiers do
not."""
ALIKE_PROPOSALS = 0.9


class _OnCPU(TorchFunctionMode):
    """Draws with a generator of the CPU, wherever the numbers are wanted."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if not isinstance(kwargs.get("generator"), torch.Generator):
            return func(*args, **kwargs)
        tensors = [one for one in args if isinstance(one, Tensor)]
        wanted = kwargs.get("device", tensors[0].device if tensors else "cpu")
        if torch.device(wanted).type == "cpu":
            return func(*args, **kwargs)
        args = [one.cpu() if isinstance(one, Tensor) else one for one in args]
        named = {**kwargs, "device": "cpu"} if "device" in kwargs else kwargs
        return func(*args, **named).to(wanted)


@contextmanager
def drawn_on_cpu():
    """In it, variants draw on the CPU and the numbers are moved: a generator of the same seed draws
    other numbers on CUDA, which is neither's mistake."""
    with (
        patch("bacl.detector.bank.generator", lambda device, *key: draws.generator("cpu", *key)),
        _OnCPU(),
    ):
        yield


class Proposals:
    """The proposals of a run on the CPU, for a run elsewhere to go on from.

    Which of the proposals a RoI head samples hangs on their order, and that on the last digits of
    their scores. The other run computes its own all the same, and they are compared.
    """

    def __init__(self):
        self._kept = []

    @contextmanager
    def kept(self, model):
        """In it, the model's proposals are kept."""

        def keep(found):
            self._kept.append([results.to("cpu") for results in found])
            return found

        with self._patched(model, keep):
            yield

    @contextmanager
    def shown(self, model):
        """In it, the model goes on from what was kept, in its order, as if it had found that."""
        left = iter(self._kept)
        alike = total = 0

        def show(found):
            nonlocal alike, total
            kept = next(left)
            for own, theirs in zip(found, kept, strict=True):
                alike += int(_partners(own.bboxes.cpu(), theirs.bboxes).sum())
                total += len(theirs)
            return [theirs.to(own.bboxes.device) for own, theirs in zip(found, kept)]

        with self._patched(model, show):
            yield
        assert next(left, None) is None
        assert total and alike >= ALIKE_PROPOSALS * total, f"{alike} of {total} proposals"

    @contextmanager
    def _patched(self, model, change):
        head = model.rpn_head
        trained, tested = head.loss_and_predict, head.predict

        def loss_and_predict(*args, **kwargs):
            losses, found = trained(*args, **kwargs)
            return losses, change(found)

        def predict(*args, **kwargs):
            return change(tested(*args, **kwargs))

        with (
            patch.object(head, "loss_and_predict", loss_and_predict),
            patch.object(head, "predict", predict),
        ):
            yield


def _partners(own: Tensor, theirs: Tensor) -> Tensor:
    """(M,) whether each of `theirs` (M, 4) is among the boxes `own` (N, 4), to 0.05 pixels."""
    return (torch.cdist(theirs, own, p=float("inf")) < 0.05).any(dim=1)


def losses_alike(found, expected):
    """Asserts that the losses of each step are those expected, by name."""
    assert len(found) == len(expected) > 0
    for step, (own, other) in enumerate(zip(found, expected)):
        assert own.keys() == other.keys()
        for name, value in other.items():
            torch.testing.assert_close(
                torch.as_tensor(own[name]).cpu(),
                torch.as_tensor(value).cpu(),
                rtol=RELATIVE,
                atol=1e-6,
                msg=lambda text, name=name, step=step: f"{name} of step {step}: {text}",
            )


def moved_alike(found, expected, start, device, leaving_out=()):
    """Asserts that states, on the device, moved from `start` as those expected did.

    Compared is the move of a tensor and not its values, of which a step changes little: the norm of
    the difference, relative to the norm of the move. Whole numbers and truth values are equal.
    """
    assert found.keys() == expected.keys()
    moved = False
    for key, value in expected.items():
        own, other = found[key], value.cpu()
        assert own.device.type == torch.device(device).type, key
        own = own.cpu()
        if not other.is_floating_point():
            assert torch.equal(own, other), key
            continue
        own, other, before = own.double(), other.double(), start[key].cpu().double()
        finite = other.isfinite()
        assert torch.equal(own.isfinite(), finite), key
        own, other, before = own[finite], other[finite], before[finite]
        move = (other - before).norm()
        moved |= bool(move)
        bound = RELATIVE * move + ROUNDED * other.norm()
        assert (own - other).norm() <= bound, (
            f"{key}: expected a move of {move:.3g} to within {bound:.3g}, found one that is "
            f"{(own - other).norm():.3g} away"
        )
    assert moved


def detected_alike(found, expected):
    """Asserts that detections of one image are those expected, but for what rounding decides."""
    found, expected = found.to("cpu"), expected.to("cpu")
    assert len(expected) and abs(len(found) - len(expected)) <= (1 - ALIKE) * len(expected)
    same = (found.labels == expected.labels[:, None]) & (found.variant == expected.variant[:, None])
    near = torch.cdist(expected.bboxes, found.bboxes, p=float("inf")) < 0.05
    by = (found.scores - expected.scores[:, None]).abs()
    same &= near & (by <= RELATIVE * expected.scores[:, None] + 1e-6)
    alike = same.any(dim=1)
    assert alike.float().mean() >= ALIKE, f"{int(alike.sum())} of {len(expected)} detections"
    if "masks" in expected:
        pairs = [(int(row.int().argmax()), at) for at, row in enumerate(same) if row.any()]
        overlaps = [
            rle.iou([found.masks[own]], [expected.masks[other]], [0]).item()
            for own, other in pairs
            if rle.area(expected.masks[other])
        ]
        assert overlaps and min(overlaps) > 0.9
