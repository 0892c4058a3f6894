"""What the GPU proof says about waits, on a simulated device and from warnings made here."""

import ast
import subprocess
import sys
import warnings
from pathlib import Path
from unittest.mock import Mock, patch

import pytest
import torch
import waits
from batches import built

from bacl.rows import rows_of
from bacl.variants import Softmax

ROOT = Path(__file__).resolve().parents[2]
FIRST_STEP_ALONE = "bacl/methods/fasa.py:terms"
WAIT = "called a synchronizing CUDA operation"


@pytest.fixture(scope="module")
def found():
    return waits.waits("cpu", small=True)


def places(found):
    return {place for step in found["step"].values() for place in step}


def test_every_wait_of_ours_has_a_reason_and_every_reason_a_wait(found):
    ours = {waits._key(place) for place in places(found) if place.startswith("bacl/")}
    assert found["unexplained"] == []
    assert ours == set(waits.REASONS) - {FIRST_STEP_ALONE}


def test_bank_of_the_paper_waits_where_mmdetection_does_alone(found):
    step = found["step"]["bacl fcbl bce softmax"]
    ours = [place for place in step if place.startswith("bacl/")]
    assert [waits._key(place) for place in ours] == ["bacl/detector/operators.py:nms"]
    assert any(place.startswith("mmdet/models/task_modules/samplers/") for place in step)


@pytest.mark.parametrize("key", waits.REASONS)
def test_reason_is_of_a_function_that_there_is(key):
    file, function = key.split(":")
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    assert function in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    assert waits.REASONS[key].endswith(".")


def test_wait_that_a_method_begins_to_make_is_found_and_unexplained():
    def waiting(variant, logits, labels):
        labels.max().item()
        return torch.nn.functional.cross_entropy(logits, labels, reduction="none")

    with patch.object(Softmax, "loss", waiting):
        found = waits.waits("cpu", small=True)
    # what calls it: the bank, and a method that extends it
    assert {waits._key(place) for place in found["unexplained"]} == {
        "bacl/variants.py:terms",
        "bacl/methods/logit_adjusted.py:loss",
    }


def test_generators_of_a_step_are_of_images_pairs_and_variants(found):
    """Four images are two pairs: RPN, RoIs and jitter draw for images, hallucination for pairs."""
    assert found["generators"]["bacl fcbl bce softmax"] == {"cpu": 3 * 4, "simulated": 2}
    assert 0 < found["generator_us"] < 10_000


@pytest.fixture
def debugged():
    """PyTorch's debug mode as it was set, by a driver that is not there."""
    modes = []
    with (
        patch("torch.cuda.get_sync_debug_mode", return_value=0),
        patch("torch.cuda.set_sync_debug_mode", modes.append),
    ):
        yield modes


def test_warnings_of_cuda_are_counted_by_who_waits(debugged):
    def nonzero():
        warnings.warn(WAIT, stacklevel=1)
        return torch.ones(1, 1)

    wanted = Mock()
    wanted.device.type = "cpu"
    wanted.nonzero = nonzero
    places = waits.Counter()
    with waits._watched("cuda", places):
        for _ in range(3):
            rows_of(wanted)
        warnings.warn("another matter", stacklevel=1)
    ((place, count),) = places.items()
    assert waits._key(place) == "bacl/rows.py:rows_of" and count == 3
    assert debugged == ["warn", 0]


def test_wait_in_a_function_of_mmdetection_is_the_methods_that_calls_it(debugged):
    seesaw = built({"method": "seesaw", "p": 0.8, "q": 2.0, "classifier": "linear"})

    def reduced(loss, **_):
        warnings.warn(WAIT, stacklevel=1)
        return loss

    places = waits.Counter()
    with (
        patch("mmdet.models.losses.seesaw_loss.weight_reduce_loss", reduced),
        waits._watched("cuda", places),
    ):
        seesaw.loss(torch.zeros(3, 8), torch.tensor([0, 1, 6]))
    assert [waits._key(place) for place in places] == ["bacl/methods/seesaw.py:loss"]


def test_second_stage_keeps_a_small_part_of_what_the_first_keeps():
    found = waits.memory("cpu", small=True)["bytes"]
    assert 0 < found["stage 2"] < found["stage 1"] / 4


@pytest.mark.slow
def test_nothing_of_the_platform_is_needed_that_a_gpu_machine_lacks():
    heavy = "ray", "mlflow", "boto3", "optuna"
    script = (
        "import sys, waits, bacl_platform.bench.rows.bank\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    paths = [str(ROOT / part) for part in ("", "platform", "tests/bacl", "tests/gpu")]
    told = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {paths}\n{script}"],
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    assert told.stdout.splitlines()[-1] == "[]"
