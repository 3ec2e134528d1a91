"""Whether two models differ on the same items, and what a validation file can show at all. Loads no torch."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress

LEVEL = 0.05
DRAWS = 2_000
Z = 1.96  # standard deviations that bound 95 % of a normal distribution
MOST_DRAWN = 500  # items of unlike losses that are drawn again; of more, sums are as good as normally distributed
ODD = bytes(byte & 1 for byte in range(256))
ROUNDING = 1e-9  # equal sums of floats in another order count as equal


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """Accuracy of one classifier less that of another on the same items, or one model's loss per token less another's.

    `low` and `high` bound the 95 % interval (bootstrap over items, or for losses on more than `MOST_DRAWN` items the
    normal one). `p_value` is that of the exact sign test (McNemar), or for losses of the sign-flip test. An item is won
    by being right alone, or by the lower loss.
    """

    items: int
    wins: int
    losses: int
    difference: float
    low: float
    high: float
    p_value: float

    @property
    def shown(self) -> bool:
        """Whether a difference can be shown at the level of 5 %."""
        return self.p_value < LEVEL


def smallest_difference(items: int) -> float | None:
    """The smallest difference in accuracy (0 to 1) that `items` paired items can show; None if they can show none.

    Where one classifier is right on k items more and wrong on none that the other has right, the exact two-sided sign
    test gives 2 * 0.5^k: below 5 % from k = 6 on. With disagreement in both directions it takes more.
    """
    fewest = math.ceil(math.log2(2 / LEVEL))
    return fewest / items if items >= fewest else None


def paired_difference(first: Sequence[bool], second: Sequence[bool]) -> PairedDifference:
    """Compare which items two classifiers got right, in the same order. ValueError for unequal numbers."""
    if len(first) != len(second) or not first:
        raise ValueError(f"{len(first)} and {len(second)} items cannot be paired")
    differences = [int(one) - int(other) for one, other in zip(first, second, strict=True)]
    wins, losses = differences.count(1), differences.count(-1)
    size = len(differences)
    low, high = _accuracy_interval(size, wins, losses)
    return PairedDifference(size, wins, losses, sum(differences) / size, low, high, sign_test(wins, losses))


def paired_loss_difference(first: Sequence[float], second: Sequence[float], tokens: Sequence[int]) -> PairedDifference:
    """Compare what two models' losses on items of so many tokens sum up to. ValueError for unequal numbers.

    Tokens of one item are not independent, so that whole items are drawn again, and whole items change sides. Of more
    than `MOST_DRAWN` items the interval is the normal one of a ratio of sums (delta method), which errs as little.
    """
    if not len(first) == len(second) == len(tokens) or not first:
        raise ValueError(f"{len(first)} and {len(second)} items cannot be paired")
    differences = [one - other for one, other in zip(first, second, strict=True)]
    if len(tokens) > MOST_DRAWN:
        low, high = _normal_interval(differences, tokens)
    else:
        low, high = _drawn_interval(differences, tokens)
    return PairedDifference(
        items=len(tokens),
        wins=sum(each < 0 for each in differences),
        losses=sum(each > 0 for each in differences),
        difference=sum(differences) / sum(tokens),
        low=low,
        high=high,
        p_value=sign_flip_test(differences),
    )


def sign_flip_test(differences: Sequence[float], draws: int = DRAWS) -> float:
    """Two-sided p-value of a sum, if each difference might as well have had the other sign (Fisher's randomization).

    Over all signs where they are few enough, else over `draws` random ones. For more than `MOST_DRAWN` differences the
    sum of random signs is taken as normal: near 5 % that is off by less than 0.006 even where all are equally large,
    when the sum moves in the coarsest steps, and the draws are off by 0.005 themselves. It takes differences of which
    no few make up the whole sum.
    """
    moving = [each for each in differences if each]
    total = sum(moving)
    observed = abs(total) * (1 - ROUNDING)
    if len(moving) > MOST_DRAWN:
        return math.erfc(abs(total) / (math.sqrt(2) * math.hypot(*moving)))
    if 2 ** len(moving) <= draws:
        sums = [0.0]
        for each in moving:
            sums = [partial + sign * each for partial in sums for sign in (1, -1)]
        return sum(abs(partial) >= observed for partial in sums) / len(sums)
    generator = random.Random(0)
    as_far = 0
    for _ in range(draws):
        positive = generator.randbytes(len(moving)).translate(ODD)
        as_far += abs(2 * sum(compress(moving, positive)) - total) >= observed
    return (1 + as_far) / (1 + draws)


def sign_test(wins: int, losses: int) -> float:
    """Two-sided p-value of the exact sign test: as uneven a split of wins + losses fair coins, or a more uneven one.

    Sums from the likeliest split on until nothing is added, in floats: the relative error is below 1e-9.
    """
    tosses, fewer = wins + losses, min(wins, losses)
    ways = math.lgamma(tosses + 1) - math.lgamma(fewer + 1) - math.lgamma(tosses - fewer + 1)
    term = math.exp(ways - tosses * math.log(2))
    tail = 0.0
    for count in range(fewer, -1, -1):
        if tail + term == tail:
            break
        tail += term
        term *= count / (tosses - count + 1)
    return min(1.0, 2 * tail)


def wilson_interval(share: float, count: int) -> tuple[float, float]:
    """95 % interval of a share observed in `count` trials (Wilson 1927)."""
    centre = share + Z * Z / (2 * count)
    spread = Z * math.sqrt(share * (1 - share) / count + Z * Z / (4 * count * count))
    scale = 1 + Z * Z / count
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def _accuracy_interval(items: int, wins: int, losses: int) -> tuple[float, float]:
    """95 % bootstrap interval of (wins - losses) / items.

    Items of the same outcome are alike, so that it is enough to draw how many there are of each: the same distribution
    as that of single items drawn again.
    """
    generator = random.Random(0)
    found = []
    for _ in range(DRAWS):
        won = _successes(generator, items, wins, items)
        lost = _successes(generator, items - won, losses, items - wins)
        found.append((won - lost) / items)
    return _middle(found)


def _successes(generator: random.Random, trials: int, part: int, whole: int) -> int:
    """How many of so many trials succeed, each with the probability part / whole (binomial, exact).

    A trial succeeds if a random binary fraction is below part / whole. All trials draw their next digit at once, and
    those whose digit is not the probability's are decided: about half of them each time.
    """
    succeeded = 0
    while trials:
        part *= 2
        ones = generator.getrandbits(trials).bit_count()
        if part >= whole:  # the probability's digit is 1
            part -= whole
            succeeded += trials - ones
            trials = ones
        else:
            trials -= ones
    return succeeded


def _drawn_interval(values: Sequence[float], weights: Sequence[int]) -> tuple[float, float]:
    """95 % bootstrap interval of the sum of values over the sum of their weights."""
    generator, size = random.Random(0), len(values)
    found = []
    for _ in range(DRAWS):
        drawn = generator.choices(range(size), k=size)
        found.append(sum(map(values.__getitem__, drawn)) / sum(map(weights.__getitem__, drawn)))
    return _middle(found)


def _normal_interval(values: Sequence[float], weights: Sequence[int]) -> tuple[float, float]:
    """95 % interval of the sum of values over the sum of their weights, by its standard error (Cochran 1977, 6.4)."""
    whole = sum(weights)
    ratio = sum(values) / whole
    squares = sum((value - ratio * weight) ** 2 for value, weight in zip(values, weights, strict=True))
    spread = Z * math.sqrt(squares) / whole
    return ratio - spread, ratio + spread


def _middle(found: Sequence[float]) -> tuple[float, float]:
    """What bounds the middle 95 % of so many values."""
    ordered, count = sorted(found), len(found)
    return ordered[int(0.025 * count)], ordered[math.ceil(0.975 * count) - 1]
