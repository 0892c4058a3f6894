"""How often intervals of a difference of AP hold the truth, in experiments that are drawn whole:
images, what two detectors find in them, and what each seed changes."""

import numpy as np
import pytest

from bacl_platform.analysis.matching import Ranked, Truth, average_precision
from bacl_platform.analysis.uncertainty import Spread

IMAGES, CATEGORIES, RESAMPLES, EXPERIMENTS = 60, 4, 100, 150


def drawn_world(generator):
    """Boxes of a long tail in images, and how hard each image and each box is."""
    counts = generator.poisson([0.3, 0.6, 1.0, 1.5], (IMAGES, CATEGORIES))
    image, label = np.nonzero(counts)
    image, label = (np.repeat(one, counts[counts > 0]) for one in (image, label))
    size = len(image)
    truth = Truth(np.arange(size), image, label, np.zeros((size, 4)), np.ones(size, dtype=bool))
    return truth, generator.normal(0, 0.8, IMAGES)[image] + generator.normal(0, 1, size)


def drawn_run(generator, truth, hardness, quality):
    """What a detector of some quality finds: boxes that are not too hard, and wrong ones."""
    hit = generator.random(len(hardness)) < 1 / (1 + np.exp(hardness - quality))
    wrong = generator.poisson(0.7, (IMAGES, CATEGORIES))
    image, label = (np.repeat(one, wrong[wrong > 0]) for one in np.nonzero(wrong))
    score = np.concatenate([generator.beta(3, 2, hit.sum()), generator.beta(2, 3, len(image))])
    right = np.arange(len(score)) < hit.sum()
    image, label = (
        np.concatenate(parts) for parts in ((truth.image[hit], image), (truth.label[hit], label))
    )
    order = np.lexsort((-score, label))
    columns = (image[order], label[order], score[order], right[None, order])
    return Ranked(IMAGES, truth, CATEGORIES, *columns, np.zeros((1, len(order)), dtype=bool))


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_intervals_of_ap_cover_its_expected_difference(seeds):
    generator = np.random.default_rng(seeds)
    differences, halves = [], []
    for _ in range(EXPERIMENTS):
        truth, hardness = drawn_world(generator)
        draws = generator.multinomial(IMAGES, np.full(IMAGES, 1 / IMAGES), RESAMPLES)
        weights = np.concatenate([np.ones((1, IMAGES), dtype=int), draws])
        sides = []
        for gain in (0, 0.4):
            runs = [
                drawn_run(generator, truth, hardness, gain + generator.normal(0, 0.3))
                for _ in range(seeds)
            ]
            sides.append(
                np.stack([np.nanmean(average_precision(r, weights)[:, 0], axis=1) for r in runs])
            )
        first, second = (side[..., None] for side in sides)
        spread = Spread.of(
            first[:, 0], second[:, 0], (second - first)[:, 1:], np.array([IMAGES]), True
        )
        differences.append((second - first)[:, 0].mean())
        halves.append(spread.half_width(0.95)[0])
    truth = np.mean(differences)
    assert truth > 0.03
    assert 0.9 <= np.mean(np.abs(differences - truth) <= halves) <= 0.99
