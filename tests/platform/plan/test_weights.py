"""Files of backbone weights, before anything starts."""

import argparse

import pytest
import torch
from typer.testing import CliRunner

from bacl.errors import UsageError
from bacl_platform.cli.main import app
from bacl_platform.plan.weights import check_weights

KEY = "layer1.0.conv1.weight"


@pytest.fixture
def problem(planned, tmp_path):
    """What is told of weights with a content."""

    def told(content=None):
        file = tmp_path / "weights.pth"
        if content is not None:
            file.write_bytes(content) if isinstance(content, bytes) else torch.save(content, file)
        jobs = planned(f"detector.weights={file}").jobs
        try:
            check_weights(jobs)
        except UsageError as error:
            return str(error).replace(str(file), "FILE")
        return None

    return told


@pytest.mark.parametrize(
    "content",
    [{KEY: torch.zeros(1)}, {"state_dict": {f"module.{KEY}": torch.zeros(1)}, "epoch": 1}],
)
def test_weights_of_the_backbone_are_taken(problem, content):
    assert problem(content) is None


def test_older_format_of_torch_is_taken(planned, tmp_path):
    file = tmp_path / "old.pth"
    torch.save({KEY: torch.zeros(1)}, file, _use_new_zipfile_serialization=False)
    check_weights(planned(f"detector.weights={file}").jobs)


@pytest.mark.parametrize(
    "content, told",
    [
        (None, "detector.weights: expected a file of backbone weights, found no FILE"),
        (b"<html>404</html>", "got a file that is damaged or something else"),
        (b"", "got a file that is damaged or something else"),
        (argparse.Namespace(a=1), "only code can read: it holds argparse.Namespace"),
        ({f"backbone.{KEY}": torch.zeros(1)}, f"that has {KEY}, found none such among its 1"),
        ([1, 2], f"that has {KEY}, found none"),
    ],
)
def test_what_no_backbone_can_start_from_is_told_in_one_clean_sentence(problem, content, told):
    sentence = problem(content)
    assert sentence.endswith(told)
    assert sentence.isprintable() and len(sentence) < 250


def test_swin_wants_weights_in_its_own_form(planned, tmp_path):
    file = tmp_path / "swin.pth"
    torch.save({"model": {"layers.0.blocks.0.attn.qkv.weight": torch.zeros(1)}}, file)
    jobs = planned("detector.backbone=swin_t", f"detector.weights={file}").jobs
    check_weights(jobs)
    torch.save({KEY: torch.zeros(1)}, file)
    with pytest.raises(UsageError, match="weights of a SwinTransformer backbone"):
        check_weights(jobs)


@pytest.mark.parametrize("command", ["plan", "run"])
def test_commands_tell_before_they_start_anything(tiny, store, command):
    words = [command, str(tiny), "--store", str(store.root), "--set", "detector.weights=nope.pth"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2
    expected = f"expected a file of backbone weights, found no {tiny.parent / 'nope.pth'}"
    assert expected in result.output
    assert not (store.root / "mlflow.db").exists()
