"""Batches as a bank shows them to a variant, the shares that ranks have of them, and slopes."""

from functools import partial

import torch

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


def step(variant, batches):
    """What ranks with those batches do to a variant's state in a step."""
    increments = [variant.increment(variant.logits(b.features), b) for b in batches]
    with torch.no_grad():
        variant.add(sum(increments))


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
