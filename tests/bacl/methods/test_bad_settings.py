"""What a method cannot use gets a sentence that says so."""

import pytest
from pydantic import ValidationError
from training import DETECTOR, config_of

from bacl.config import variant_options
from bacl.datasets.prepared import Prepared
from bacl.detector.two_stage import plain_model
from bacl.errors import UsageError
from bacl.method_settings.classifiers import BAGS, TDE
from bacl.method_settings.registry import METHODS
from bacl.method_settings.resampling import LOCE
from bacl.method_settings.suppression import ACSL

COUNTED = [name for name, method in METHODS.items() if method.counted]


def refusal(dataset_info, variant, instances=None):
    """The sentence for a variant, where categories have so many instances each."""
    prepared = Prepared.load(dataset_info)
    if instances is not None:
        categories = [
            category.model_copy(update={"instance_count": count})
            for category, count in zip(prepared.categories, instances)
        ]
        prepared = prepared.model_copy(update={"categories": categories})
    with pytest.raises(UsageError) as raised:
        variant_options(
            "mine", variant, prepared, plain_model(DETECTOR), images=8, total=4, batch=4
        )
    (sentence,) = str(raised.value).splitlines()
    return sentence


@pytest.mark.parametrize("shares", [[], [0.1, 1.0], [0.01, 0.1, 0.5, 1.0]])
def test_shares_of_background_are_one_for_each_group(dataset_info, shares):
    sentence = refusal(dataset_info, ACSL(method="acsl", background_shares=shares))
    assert sentence == (
        "variants.mine: method acsl: background_shares: expected 3, one for each frequency group "
        f"(r, c, f), got {len(shares)}"
    )


@pytest.mark.parametrize(
    ("bounds", "span"),
    [
        ([3, 10], "0 to 2"),
        ([10, 15, 30], "10 to 14"),
        ([10, 1000], "1000 or more"),
    ],
)
def test_bounds_that_leave_a_group_empty_are_refused(dataset_info, bounds, span):
    sentence = refusal(dataset_info, BAGS(method="bags", bounds=bounds))
    assert sentence == (
        f"variants.mine: method bags: bounds {bounds}: expected categories in every group, none "
        f"has {span} training instances"
    )


@pytest.mark.parametrize("bounds", [[], [4], [4, 10, 100]])
def test_bounds_that_leave_no_group_empty_are_taken(dataset_info, bounds):
    config = config_of(dataset_info, {"mine": BAGS(method="bags", bounds=bounds)})
    variants = config["model"]["roi_head"]["bbox_head"]["variants"]
    assert variants["mine"]["bounds"] == bounds


@pytest.mark.parametrize("bounds", [[10, 10], [100, 10]])
def test_bounds_that_do_not_rise_are_refused(bounds):
    with pytest.raises(ValidationError, match="do not rise"):
        BAGS(method="bags", bounds=bounds)


@pytest.mark.parametrize("method", COUNTED)
def test_dataset_without_instances_is_refused(dataset_info, method):
    sentence = refusal(dataset_info, METHODS[method](method=method), instances=[0] * 6)
    assert sentence == (
        f"variants.mine: method {method} needs how many training instances each category has: "
        "expected some, the dataset has none"
    )


def test_replay_of_a_category_without_instances_is_refused(dataset_info):
    sentence = refusal(dataset_info, LOCE(method="loce"), instances=[9, 9, 9, 0, 9, 0])
    assert sentence.startswith("variants.mine: method loce replays every category: expected")
    assert sentence.endswith("have none")


@pytest.mark.parametrize("heads", [5, 7, 48])
def test_heads_that_do_not_divide_the_features_are_refused(dataset_info, heads):
    assert refusal(dataset_info, TDE(method="tde", heads=heads)) == (
        f"variants.mine.heads: expected a divisor of detector.fc_channels (24), got {heads}"
    )
