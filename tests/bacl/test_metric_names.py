"""Names of metrics: what they are of."""

import pytest

from bacl.metric_names import kind_of, lower_is_better, metric_names


def test_names_say_their_kind():
    names = metric_names(["r", "Fixed", "50"], masks=True)
    assert len(names) == len(set(names))
    expected = {"AP_Fixed": "AP", "APFixed": "APFixed", "AP50": "AP", "AP_50": "AP", "AR_r": "AR"}
    expected |= {"mask_APPool_r": "mask_APPool", "boundary_AP_50": "boundary_AP", "ECE": "ECE"}
    assert {name: kind_of(name) for name in expected} == expected
    assert expected.keys() <= set(names)
    assert all(kind_of(name) is not None for name in names)
    assert [name for name in names if lower_is_better(name)] == [
        "ECE",
        "ECE_r",
        "ECE_Fixed",
        "ECE_50",
    ]


@pytest.mark.parametrize("name", ["loss_cls", "APs", "AP60", "system/rank0/AP", "APFixed50", "AP_"])
def test_other_names_are_of_no_kind(name):
    assert kind_of(name) is None
