"""Copies to a device for which the host does not wait."""

import warnings

import pytest
import torch
from simulated import DEVICE, here, simulated
from waiting import Waits

from bacl.transfer import sent

VALUES = torch.arange(6.0).view(2, 3)


def test_sent_values_arrive_and_nothing_waits_for_them():
    found = []
    with simulated(), Waits(found.append):
        arrived = sent(VALUES, DEVICE)
        assert found == []
        VALUES.to(DEVICE)
        assert found == ["aten::_to_copy"]
    assert arrived.device == DEVICE and torch.equal(here(arrived), VALUES)


def test_values_that_stay_on_the_cpu_are_not_copied():
    assert sent(VALUES, torch.device("cpu")) is VALUES


@pytest.mark.gpu
def test_host_does_not_wait_for_cuda():
    torch.cuda.set_sync_debug_mode("error")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the mode is a prototype, PyTorch says
            arrived = sent(VALUES, torch.device("cuda"))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(arrived.cpu(), VALUES)
