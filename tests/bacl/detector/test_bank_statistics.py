"""Prototypes of all ranks, or of each of the release's, that move before or after the draws."""

from unittest.mock import patch

import numpy as np
import pytest
import torch
from ranks import on_ranks
from training import (
    build,
    config_of,
    train,
    train_and_save,
)

from bacl.detector.bank import BankBBoxHead
from bacl.errors import UsageError
from bacl.hallucination import FeatureStatistics, moments
from bacl.method_settings.paper import BACL, Hallucination

HALLUCINATION = {
    "shared": {},
    "per_rank": {"statistics": "per_rank"},
    "first": {"moves": "before"},
    "release": {"statistics": "per_rank", "moves": "before"},
}
VARIANTS = {
    name: BACL(method="bacl", hallucination=Hallucination(categories=3, samples=4, **options))
    for name, options in HALLUCINATION.items()
}
STATISTICS = {
    "shared": "beta_0_9",
    "per_rank": "beta_0_9_of_2",
    "first": "beta_0_9_first",
    "release": "beta_0_9_of_2_first",
}
RANKS, C = 2, 6
"""Pairs of images in the tests' batches of four, and categories."""


@pytest.fixture(scope="module")
def config(dataset_info):
    return config_of(dataset_info, VARIANTS)


@pytest.fixture(scope="module")
def start(config):
    return build(config).state_dict()


class Seen:
    """What three steps of a bank show to its statistics, and what is made of them."""

    def __init__(self, config, start):
        self.shown, self.made = [], {name: [] for name in VARIANTS}
        self.model = build(config, start)
        self.head = self.model.roi_head.bbox_head
        names = {id(self.head.statistics[kind]): name for name, kind in STATISTICS.items()}
        observe, synthesize = BankBBoxHead.observe, FeatureStatistics.synthesize

        def observed(head, pooled, labels, images):
            features = head.shared_fcs[0](pooled.flatten(1)).relu()
            features = head.shared_fcs[1](features).relu()
            pairs = [head._positions[int(image)] // 2 for image in images]
            self.shown.append((features.double().numpy(), labels.numpy(), np.array(pairs)))
            observe(head, pooled, labels, images)

        def synthesized(statistics, *args):
            found = synthesize(statistics, *args)
            state = {n: v.clone() for n, v in statistics.state_dict().items()}
            self.made[names[id(statistics)]].append((state, *found))
            return found

        with (
            patch.object(BankBBoxHead, "observe", observed),
            patch.object(FeatureStatistics, "synthesize", synthesized),
        ):
            train(config, self.model, 3)


@pytest.fixture(scope="module")
def seen(config, start):
    return Seen(config, start)


@pytest.fixture(scope="module")
def bank(seen):
    return seen.model.state_dict()


def moved(shown):
    """Prototype and variance of each category by Eq. (11), step by step, on one GPU of the
    release's, of what it was shown in each."""
    state = {}
    for features, labels in shown:
        for label in set(labels.tolist()):
            own = features[labels == label]
            new = own.mean(axis=0), own.var(axis=0, ddof=1)
            old = state.get(label, new)
            state[label] = tuple(0.9 * o + 0.1 * n for o, n in zip(old, new, strict=True))
    return state


@pytest.mark.parametrize("kind", ["per_rank", "release"])
def test_each_rank_keeps_what_a_gpu_of_the_releases_would(seen, kind):
    statistics = seen.head.statistics[STATISTICS[kind]]
    for rank in range(RANKS):
        shown = [(f[p % RANKS == rank], y[p % RANKS == rank]) for f, y, p in seen.shown]
        expected = moved(shown)
        rows = slice(rank * C, (rank + 1) * C)
        assert statistics.seen[rows].nonzero()[:, 0].tolist() == sorted(expected)
        for label, (mean, variance) in expected.items():
            row = rank * C + label
            np.testing.assert_allclose(statistics.prototype[row], mean, rtol=1e-4, atol=1e-6)
            np.testing.assert_allclose(statistics.variance[row], variance, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(("kind", "steps"), [("shared", 0), ("first", 1)])
def test_features_are_made_of_prototypes_that_have_moved_or_not(seen, kind, steps):
    for step, (state, _, labels) in enumerate(seen.made[kind]):
        expected = moved([(f, y) for f, y, _ in seen.shown[: step + steps]])
        assert state["seen"].nonzero()[:, 0].tolist() == sorted(expected)
        assert set(labels.tolist()) <= {*expected, C}
        for label, (mean, _) in expected.items():
            np.testing.assert_allclose(state["prototype"][label], mean, rtol=1e-4, atol=1e-6)


def test_pair_draws_from_the_statistics_of_its_own_rank():
    draw = torch.Generator().manual_seed(0)
    each = [(torch.rand(20, 3, generator=draw) + 9 * rank, torch.arange(20) % 4) for rank in (0, 1)]
    together = FeatureStatistics(5, 3, 0.9, ranks=2)
    rows = torch.cat([labels + 5 * rank for rank, (_, labels) in enumerate(each)])
    together.update(moments(torch.cat([features for features, _ in each]), rows, 10))
    strength, pairs = torch.rand(5, generator=draw), [7, 4]
    found = together.synthesize(
        strength, 6, 2, [torch.Generator().manual_seed(pair) for pair in pairs], pairs
    )
    expected = []
    for pair in pairs:
        alone = FeatureStatistics(5, 3, 0.9)
        alone.update(moments(*each[pair % 2], 5))
        expected.append(alone.synthesize(strength, 6, 2, [torch.Generator().manual_seed(pair)]))
    for part, parts in zip(found, zip(*expected, strict=True), strict=True):
        torch.testing.assert_close(part, torch.cat(parts))


@pytest.mark.parametrize("name", VARIANTS)
def test_variant_in_a_bank_equals_the_variant_alone(dataset_info, start, bank, name):
    config = config_of(dataset_info, {name: VARIANTS[name]})
    alone = build(config)
    alone.load_state_dict({key: start[key] for key in alone.state_dict()})
    train(config, alone, 3)
    for key, value in alone.state_dict().items():
        torch.testing.assert_close(value, bank[key], rtol=1e-5, atol=1e-6, msg=key)


def test_interrupted_and_resumed_equals_undisturbed(config, start, bank):
    first = build(config, start)
    optimizer = train(config, first, 1)
    second = build(config, first.state_dict())
    train(config, second, 2, skip=1, optimizer_state=optimizer.state_dict())
    for key, value in second.state_dict().items():
        assert torch.equal(value, bank[key]), key


@pytest.mark.slow
def test_two_ranks_equal_one_with_two_reductions_a_step(config, bank, tmp_path):
    on_ranks(train_and_save, 2, tmp_path, config, 2)
    two = torch.load(tmp_path / "0.pth", weights_only=True)
    for key, value in two.items():
        torch.testing.assert_close(value, bank[key], rtol=1e-4, atol=1e-5, msg=key)


def test_prototypes_of_all_ranks_cannot_move_before_a_step_in_parts(dataset_info):
    with pytest.raises(UsageError, match=r"first\.hallucination\.moves: expected after with"):
        config_of(dataset_info, {"first": VARIANTS["first"]}, accumulate=2)
    config_of(dataset_info, {"release": VARIANTS["release"]}, accumulate=2)
