"""Batches as a bank shows them to a variant, logits, steps that move its state, and gradients."""

from functools import partial

import torch
import torch.nn.functional as F

from bacl.draws import generator
from bacl.variants import Batch, build_variant

C, D = 6, 8
"""Categories and width of the features; label C is the background."""
COUNTS = {
    "images": [2, 5, 10, 40, 300, 900],
    "instances": [3, 9, 10, 99, 400, 2000],
    "groups": [0, 0, 0, 1, 2, 2],
    "total": 1000,
}
IMAGES = [[0, 1, C, C, 3], [2, C, 4, 4], [C, C, 1], [3, 0, C]]
"""Labels of the samples of four images."""


def built(settings, seed=0):
    """A variant of C categories from its plain settings, as training has it."""
    return build_variant(settings, D, C, torch.Generator().manual_seed(seed))


def batch_of(images, first=0, ids=None):
    """The batch of images from position `first` on, given the labels of each one's samples."""
    positions = list(range(first, first + len(images)))
    features = [
        torch.randn(len(image), D, generator=generator("cpu", "features", position))
        for image, position in zip(images, positions)
    ]
    owners = [number for number, image in enumerate(images) for _ in image]
    return Batch(
        features=torch.cat(features),
        labels=torch.tensor([label for image in images for label in image], dtype=torch.long),
        images=torch.tensor(owners, dtype=torch.float),
        positions=positions,
        ids=ids or positions,
        generator=partial(generator, "cpu", "variant"),
    )


def drawn_labels(images, samples, seed=0):
    """Labels of as many samples of as many images, background as often as all categories."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(0, 2 * C, (images, samples), generator=draw).clamp_max(C).tolist()


def on_ranks(images, first=0, ids=None, ranks=2):
    """The same batch as `batch_of`, as that many ranks share it."""
    share = len(images) // ranks
    return [
        batch_of(images[at : at + share], first + at, ids and ids[at : at + share])
        for at in range(0, len(images), share)
    ]


def logits_of(samples, columns, seed=0, scale=2.0):
    """Logits in float64 for so many samples."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(samples, columns, generator=draw, dtype=torch.double) * scale


def labelled(images, columns, first=0, **options):
    """The batch of images, and logits for its samples."""
    batch = batch_of(images, first)
    return batch, logits_of(len(batch.labels), columns, **options)


def split(logits, batches):
    """Each batch's share of the logits of all."""
    return logits.split([len(batch.labels) for batch in batches])


def step(variant, batches, logits=None):
    """What ranks with those batches do to a variant's state in a step.

    logits: of the samples of all batches, instead of the variant's own.
    """
    if logits is None:
        shares = [variant.logits(batch.features) for batch in batches]
    else:
        shares = split(logits, batches)
    increments = [variant.increment(*pair) for pair in zip(shares, batches, strict=True)]
    with torch.no_grad():
        variant.add(sum(increments))


def loss_of(variant, batch, logits):
    """The loss of a step, summed over its samples, which are what it is divided by."""
    total, count = variant.terms(logits, batch)["cls"]
    assert count == len(logits)
    return total


def weights_of(variant, batch, logits):
    """(N, K) what binary cross-entropies are weighted by, from the loss's gradient."""
    logits = logits.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(loss_of(variant, batch, logits), logits)
    targets = F.one_hot(batch.labels, C + 1)[:, : logits.size(1)]
    return gradient / (logits.detach().sigmoid() - targets)


def slopes(function, at, by=1e-5):
    """Finite differences of a function of a float64 tensor, to each of its entries."""
    at = at.detach().double()
    found = torch.zeros_like(at)
    for index in range(at.numel()):
        moved = []
        for sign in (1, -1):
            shifted = at.flatten().clone()
            shifted[index] += sign * by
            moved.append(function(shifted.view_as(at)))
        found.view(-1)[index] = (moved[0] - moved[1]) / (2 * by)
    return found
