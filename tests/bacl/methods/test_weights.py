"""A sample that stands for several counts as these do: their repetition is the oracle."""

import itertools
from collections import Counter
from dataclasses import replace
from functools import partial

import pytest
import torch
from everything import everything
from training import DETECTOR

from bacl.draws import generator
from bacl.variants import METHODS, Batch, build_variant

C, D = 6, DETECTOR.fc_channels
IMAGES = [[0, 1, C, C, 3], [2, C, 4, 4], [C, C, 1], [3, 0, C]]
FEW = [[0, C, C, 3, 5], [C, C, 2, 4], [C, 5, C], [2, C, C]]
"""With one sample at most of a group of BAGS, and of the category that an image is drawn for."""
DRAWING = {"acsl", "droploss", "gol", "bags", "simcal"}
"""Methods that draw for each sample of theirs, so that repeated ones are drawn for apart."""


@pytest.fixture(scope="module")
def bank(dataset_info, tmp_path_factory):
    """Options of variants of all methods, by name."""
    config = everything(dataset_info, tmp_path_factory.mktemp("trees"))
    found = config["model"]["roi_head"]["bbox_head"]["variants"]
    assert {one["method"] for one in found.values()} == set(METHODS.module_dict)
    return found


def width_of(variant):
    widths = {"pooled": DETECTOR.neck_channels * 49, "fc1": D, "fc2": D}
    return sum(widths[name] for name in variant.reads)


def batch_of(images, width, first=0):
    """Of the samples of images from position `first` on; each is drawn for the category of its
    first sample of any."""
    positions = list(range(first, first + len(images)))
    owners = [number for number, image in enumerate(images) for _ in image]
    features = torch.randn(len(owners), width, generator=generator("cpu", "features", first))
    return Batch(
        features=features,
        labels=torch.tensor([label for image in images for label in image]),
        images=torch.tensor(owners),
        positions=positions,
        ids=positions,
        generator=partial(generator, "cpu", "variant"),
        drawn_for=[min(image) for image in images],
    )


def times_of(batch):
    """How many each sample stands for: of background from 1 to 5, of others itself alone."""
    background = batch.labels == C
    return torch.where(background, 1 + (2 * background.cumsum(0)) % 5, 1)


def weighted(batch):
    return replace(batch, weights=times_of(batch).float())


def repeated(batch):
    times = times_of(batch)
    each = {
        name: getattr(batch, name).repeat_interleave(times, dim=0)
        for name in ("features", "labels", "images")
    }
    return replace(batch, **each)


def trained(options):
    """A variant whose state is not what it was at first."""
    variant = build_variant(options, D, C, torch.Generator().manual_seed(0)).train()
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in variant.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=draw)
    for step in range(3):
        batch = batch_of(IMAGES, width_of(variant), 4 * step)
        logits = variant.logits(batch.features)
        variant.terms(logits, batch)
        variant.update(logits, batch)
    return variant


def terms_and_gradients(variant, batch):
    """Terms, their divisors, and gradients of the sum of what is left when each is divided."""
    variant.zero_grad()
    terms = variant.terms(variant.logits(batch.features), batch)
    sum(total / count.clamp_min(1) for total, count in terms.values()).backward()
    flat = {f"{name} {which}": v for name, pair in terms.items() for which, v in enumerate(pair)}
    flat |= {name: p.grad for name, p in variant.named_parameters() if p.grad is not None}
    return {name: value.detach().float() for name, value in flat.items()}


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-5, atol=1e-6, msg=name)


def in_any_order(variant, increment):
    """An increment with the samples that each image pushes into a memory sorted: which of them
    comes first is drawn."""
    memory = getattr(variant, "memory", None)
    if memory is None:
        return increment
    size = memory.images * memory.rows * (D + 1)
    rest, packed = increment.flatten().tensor_split([increment.numel() - size])
    packed = packed.view(memory.images, memory.rows, D + 1)
    order = packed[..., :1].argsort(dim=1).expand_as(packed)
    return torch.cat([rest, packed.gather(1, order).flatten()])


def test_terms_and_gradients_are_those_of_repeated_samples(bank):
    for name, options in bank.items():
        if options["method"] in DRAWING:
            continue
        variant = trained(options)
        batch = batch_of(IMAGES, width_of(variant), 12)
        found = terms_and_gradients(variant, weighted(batch))
        assert_equal(found, terms_and_gradients(variant, repeated(batch)))
        as_if_alone = terms_and_gradients(variant, batch)
        assert any(not torch.allclose(found[n], as_if_alone[n]) for n in found), name


def test_increments_are_those_of_repeated_samples(bank):
    for name, options in bank.items():
        variant = trained(options)
        batch = batch_of(IMAGES, width_of(variant), 12)
        if hasattr(variant, "memory"):  # nothing is left to chance but the order
            variant.memory.rows = 3
        found = []
        for one in (weighted(batch), repeated(batch)):
            logits = variant.logits(one.features)
            variant.terms(logits, one)  # FASA makes its features there
            found.append(variant.increment(logits, one))
        own, expected = found
        if own is None:
            assert expected is None, name
            continue
        own, expected = (in_any_order(variant, increment) for increment in found)
        torch.testing.assert_close(own, expected, rtol=1e-5, atol=1e-5, msg=name)


def drawn_terms(variant, batch, draws):
    """Sums and divisors of a batch's terms, of so many draws, (draws, parts)."""
    with torch.no_grad():
        logits = variant.logits(batch.features)
        rows = []
        for draw in range(draws):
            generators = partial(generator, "cpu", "draw", draw)
            terms = variant.terms(logits, replace(batch, generator=generators))
            rows.append([float(value) for pair in terms.values() for value in pair])
    return torch.tensor(rows, dtype=torch.double)


def assert_equal_on_average(one, other):
    error = (one.var(dim=0) / len(one) + other.var(dim=0) / len(other)).sqrt()
    difference = (one.mean(dim=0) - other.mean(dim=0)).abs()
    assert (difference <= 4 * error + 1e-4 * one.mean(dim=0).abs()).all(), (difference, error)


@pytest.mark.parametrize("method", sorted(DRAWING))
def test_drawing_methods_lose_on_average_what_they_lose_of_repeated_samples(bank, method):
    # where one sample is drawn, it is the first of all repeated ones; of several, none is drawn
    # twice, as repeated ones might be
    few = method in ("bags", "simcal")
    images = FEW if few else IMAGES
    options = bank[method] | ({"others": 1} if method == "bags" else {})
    variant = trained(options)
    batch = batch_of(images, width_of(variant), 12)
    own = drawn_terms(variant, weighted(batch), 400)
    assert_equal_on_average(own, drawn_terms(variant, repeated(batch), 400))


def test_rank_is_by_the_first_of_as_many_draws_as_a_sample_stands_for():
    weights, samples = [1.0, 2.5, 6.0], 3000
    batch = Batch(
        features=torch.zeros(3 * samples, 1),
        labels=torch.zeros(3 * samples, dtype=torch.long),
        images=torch.arange(samples).repeat_interleave(3),
        positions=range(samples),
        ids=range(samples),
        generator=partial(generator, "cpu"),
        weights=torch.tensor(weights).repeat(samples),
    )
    order = torch.rand(3 * samples, generator=generator("cpu", "order"))
    among = torch.ones(3 * samples, dtype=torch.bool)
    ranks = batch.rank(among, order).view(samples, 3)
    found = Counter(tuple(row) for row in ranks.argsort(dim=1).tolist())
    for permutation in itertools.permutations(range(3)):
        # the first of w draws is first of all with the chance w / (sum of the others' and w)
        first, second, last = (weights[sample] for sample in permutation)
        chance = first / sum(weights) * second / (second + last)
        error = (chance * (1 - chance) / samples) ** 0.5
        assert abs(found[permutation] / samples - chance) < 4 * error, permutation


def test_sample_that_stands_for_itself_has_the_rank_that_it_has_without_weights():
    batch = batch_of(IMAGES, D)
    among = batch.labels == C
    order = torch.rand(len(among), generator=generator("cpu", "order"))
    ones = replace(batch, weights=torch.ones(len(among)))
    assert ones.rank(among, order).equal(batch.rank(among, order))
