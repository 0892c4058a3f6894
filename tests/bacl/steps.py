"""Steps as variants are shown them, for tests of methods against their equations, in float64."""

import math
from functools import partial

import torch
import torch.nn.functional as F

from bacl.draws import generator
from bacl.variants import Batch, build_variant

C, D = 5, 6
COUNTS = {
    "images": [5, 30, 31, 900, 400],
    "instances": [6, 40, 50, 2000, 800],
    "groups": [0, 1, 1, 2, 2],
    "total": 1000,
}
IMAGES = [[0, 1, C, C, 3], [2, C, 4, 4], [C, C, 1], [3, 0, C]]
"""Labels of the samples of four images."""


def sigmoid(z):
    return 1 / (1 + math.exp(-z))


def bce(z, target):
    """Binary cross-entropy of a logit."""
    return -math.log(sigmoid(z if target else -z))


def softmax(row):
    return [math.exp(z) / sum(map(math.exp, row)) for z in row]


def built(settings):
    """The variant of plain settings in float64."""
    return build_variant(settings, D, C, torch.Generator().manual_seed(0)).double()


def batch_of(images, first=0):
    """A batch of images, given the labels of each one's samples, from a position of training on."""
    labels = torch.tensor([label for image in images for label in image], dtype=torch.long)
    numbers = torch.tensor([number for number, image in enumerate(images) for _ in image])
    positions = list(range(first, first + len(images)))
    features = torch.zeros(len(labels), D)
    return Batch(features, labels, numbers.float(), positions, positions, partial(generator, "cpu"))


def logits_of(images, columns, seed=0, scale=2.0):
    """Logits in float64 for the samples of images."""
    draw = torch.Generator().manual_seed(seed)
    samples = sum(map(len, images))
    return torch.randn(samples, columns, generator=draw, dtype=torch.double) * scale


def on_two_ranks(images, logits, first=0):
    """Batch and logits of each of two ranks that share the images."""
    half = len(images) // 2
    at = sum(map(len, images[:half]))
    return [
        (batch_of(images[:half], first), logits[:at]),
        (batch_of(images[half:], first + half), logits[at:]),
    ]


def step(variant, images, logits, first=0):
    """Move the variant's state as two ranks that share the images do."""
    variant.add(
        sum(variant.increment(z, batch) for batch, z in on_two_ranks(images, logits, first))
    )


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


def has_gradient_of_its_differences(variant, batch, logits):
    """Whether the loss's gradient is that of finite differences."""
    own = logits.detach().requires_grad_()
    return torch.autograd.gradcheck(partial(loss_of, variant, batch), own)
