"""How sure a difference is that depends on which images judge it and on which seeds were trained.

The difference D, a mean over S seeds, has two sources of variance, V = v_I + v_S:

- v_I, of the images, which all seeds share: what the differences of two seeds vary together when
  images are drawn anew (with one seed, what its difference varies);
- v_S, of the seeds: s^2 / S, where s^2 is the variance of the seeds' differences on the images as
  they are. It holds what training again changes, on these and on other images.

The interval is D +- t sqrt(V) with t = (v_I t_I + v_S t_S) / V, the quantiles of Student's
distribution with one degree of freedom less than there are images and seeds (the approximation of
Cochran and Cox to the problem of Behrens and Fisher; Experimental Designs, 1957, section 4.14).
Drawing seeds with replacement, too, would be of no use at two to five seeds: two seeds are drawn
both in half of the cases only, and such an interval is far too narrow. Nor is one t with
Satterthwaite's degrees of freedom: with two seeds that happen to agree it trusts them, and covers
87 instead of 95 per cent. This one covers 94 to 98 per cent, whichever source is the larger.

Where many variants share their seeds, what a seed changes is known better than from two of them:
`Pooled` takes it from all, with (V - 1)(S - 1) degrees of freedom. A pair whose own seeds differ by
more keeps its own variance. So a family of claims over all pairs is wrong no more often than it
says where variants differ in their variance by up to four times.

Letters: B resamples, K quantities that are compared, S seeds, P pairs, V variants.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

MOST_SEEDS = 50
"""Seeds up to which it is said how many would settle an open question."""
_HALVINGS = 50
_SMALLEST = 1e-300
"""Of the p-values that are told apart."""

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Pooled:
    """The variance (K,) over seeds of one seed's difference between two variants, from several
    that have the same seeds, and its degrees of freedom."""

    variance: Values
    freedom: int

    @classmethod
    def of(cls, points: Values) -> "Pooled":
        """From what V variants reach with each of S seeds (V, S, K): what is left of it after the
        means of variants and of seeds."""
        variants, seeds = points.shape[:2]
        left = points - points.mean(axis=0) - points.mean(axis=1, keepdims=True)
        left = left + points.mean(axis=(0, 1))
        freedom = (variants - 1) * (seeds - 1)
        return cls(2 * (left**2).sum(axis=(0, 1)) / freedom, freedom)


@dataclass(frozen=True)
class Spread:
    """Variances (K,) of K differences, in squares of their unit, and what they are known from.

    images: v_I. seeds: v_S, NaN with one seed, of which nothing is known. alone: what other images
    would change for the very detectors that were compared. shown (K,): images that show what the
    difference is of. resamples: B. seeds_count: S. freedom: degrees of freedom of v_S.
    """

    images: Values
    seeds: Values
    alone: Values
    shown: Values
    resamples: int
    seeds_count: int
    freedom: float

    @classmethod
    def of(
        cls,
        first: Values,
        second: Values,
        drawn: Values,
        shown: Values,
        paired: bool,
        pooled: Pooled | None = None,
    ) -> "Spread":
        """From what both sides reach with each seed (S, K), and differences in resamples of the
        images (S, B, K), NaN where a resample has nothing to compare.

        paired: whether a seed means the same training on both sides up to what is compared, so that
        what it changes on both cancels out; otherwise the two sides vary independently of each
        other. pooled: what is known of the seeds from other variants, too.
        """
        seeds, resamples = drawn.shape[:2]
        freedom = seeds - 1
        shown = np.asarray(shown, dtype=np.float64)
        # a resample of n images varies as n - 1 do
        grown = shown / np.maximum(shown - 1, 1)
        of_mean = _variance(drawn.mean(axis=0)) * grown
        if seeds == 1:
            images, by_seed = of_mean, np.full(of_mean.shape, np.nan)
        else:
            each = np.sum([_variance(of_seed) for of_seed in drawn], axis=0) * grown
            # what two different seeds vary together, from the variance of the mean of all
            images = np.maximum((seeds**2 * of_mean - each) / (seeds * (seeds - 1)), 0)
            apart = [second - first] if paired else [first, second]
            by_seed = sum(np.var(one, axis=0, ddof=1) for one in apart) / seeds
            if pooled is not None:
                by_seed = np.maximum(by_seed, pooled.variance / seeds)
                freedom = pooled.freedom
        return cls(images, by_seed, of_mean, shown, resamples, seeds, freedom)

    @property
    def total(self) -> Values:
        """V (K,)."""
        return self.images + np.nan_to_num(self.seeds)

    @property
    def of_seeds(self) -> Values:
        """The part (K,) of the variance that is of seeds; NaN with one seed or without variance."""
        none = np.full(self.total.shape, np.nan)
        return np.divide(self.seeds, self.total, out=none, where=self.total > 0)

    def half_width(self, confidence: float) -> Values:
        """Half of the interval (K,)."""
        return self._quantile(np.full(self.total.shape, (1 - confidence) / 2)) * np.sqrt(self.total)

    def p_value(self, difference: Values) -> Values:
        """The probability (K,) of a difference as far from zero if there were none: below
        1 - confidence where the interval leaves out zero, and nowhere else."""
        size = np.abs(difference)
        varies = self.total > 0
        root = np.sqrt(np.where(varies, self.total, 1))
        low = np.full(root.shape, np.log(_SMALLEST))  # logarithms of one tail's probability
        high = np.full(root.shape, np.log(0.5))
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            wider = self._quantile(np.exp(middle)) * root > size
            low, high = np.where(wider, middle, low), np.where(wider, high, middle)
        sure = np.where(size > 0, 0.0, 1.0)
        return np.where(varies, np.minimum(2 * np.exp(high), 1.0), sure)

    def with_seeds(self, count: int) -> "Spread":
        """What is to be expected of another number of seeds, at least two."""
        by_seed = self.seeds * self.seeds_count / count
        freedom = self.freedom / (self.seeds_count - 1) * (count - 1)
        return replace(self, seeds=by_seed, seeds_count=count, freedom=freedom)

    def of_these(self) -> "Spread":
        """The variance of the very detectors that were compared, over images alone."""
        return replace(self, images=self.alone, seeds=self.seeds * np.nan, seeds_count=1)

    def _quantile(self, tail: Values) -> Values:
        """t (K,) that leaves a probability (K,) above it."""
        known = np.maximum(np.minimum(self.shown, self.resamples) - 1, 1)
        of_images = stats.t.isf(tail, known)
        if self.seeds_count == 1:
            return np.asarray(of_images)
        of_seeds = stats.t.isf(tail, self.freedom)
        share = np.nan_to_num(self.of_seeds)
        return np.asarray((1 - share) * of_images + share * of_seeds)


def _variance(drawn: Values) -> Values:
    """Variances (K,) over the resamples (B, K) that have a value; 0 of less than two."""
    known = ~np.isnan(drawn)
    count = known.sum(axis=0)
    mean = np.where(known, drawn, 0).sum(axis=0) / np.maximum(count, 1)
    squares = (np.where(known, drawn - mean, 0) ** 2).sum(axis=0)
    return np.asarray(squares / np.maximum(count - 1, 1))


def seeds_to_settle(difference: Values, spread: Spread, confidence: float) -> list[int | None]:
    """The smallest number of seeds for each of K differences whose interval would leave out zero if
    the difference and the variances stayed; None where that is more than `MOST_SEEDS`, or where
    nothing is known of seeds."""
    found: list[int | None] = [None] * len(difference)
    if spread.seeds_count == 1:
        return found
    for count in range(MOST_SEEDS, 1, -1):
        settled = spread.with_seeds(count).half_width(confidence) < np.abs(difference)
        for place in np.flatnonzero(settled):
            found[place] = count
    return found


def images_suffice(difference: Values, spread: Spread, confidence: float) -> NDArray[np.bool_]:
    """Whether (K,) an interval of the images alone, as of endlessly many seeds, leaves out zero."""
    endless = replace(spread, seeds=spread.seeds * np.nan, seeds_count=1)
    return np.asarray(endless.half_width(confidence) < np.abs(difference))


def holm(p_values: Values) -> Values:
    """P-values (P,) corrected for their number by Holm's step-down procedure (1979): the chance of
    any false claim among those below a limit is at most that limit. NaN stays and does not count.
    """
    corrected = np.full(len(p_values), np.nan)
    known = np.flatnonzero(~np.isnan(p_values))
    order = known[np.argsort(p_values[known], kind="stable")]
    steps = np.arange(len(order), 0, -1) * p_values[order]
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1) if len(order) else steps
    return corrected
