"""Whether two models differ on the same items, and what a validation file can show at all. Loads no torch."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

LEVEL = 0.05
ROUNDING = 1e-9  # equal sums of floats in another order count as equal


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """Accuracy of one classifier less that of another on the same items, or one model's loss per token less another's.

    `low` and `high` bound the 95 % interval (bootstrap over items). `p_value` is that of the exact sign test (McNemar),
    or for losses of the sign-flip test. An item is won by being right alone, or by the lower loss.
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


def paired_difference(
    first: Sequence[bool], second: Sequence[bool], draws: int = 2_000, seed: int = 0
) -> PairedDifference:
    """Compare which items two classifiers got right, in the same order. ValueError for unequal numbers."""
    if len(first) != len(second) or not first:
        raise ValueError(f"{len(first)} and {len(second)} items cannot be paired")
    differences = [int(one) - int(other) for one, other in zip(first, second, strict=True)]
    wins, losses = differences.count(1), differences.count(-1)
    size = len(differences)
    low, high = _interval(differences, [1] * size, draws, seed)
    return PairedDifference(size, wins, losses, sum(differences) / size, low, high, sign_test(wins, losses))


def paired_loss_difference(
    first: Sequence[float], second: Sequence[float], tokens: Sequence[int], draws: int = 2_000, seed: int = 0
) -> PairedDifference:
    """Compare what two models' losses on items of so many tokens sum up to. ValueError for unequal numbers.

    Tokens of one item are not independent, so that whole items are drawn again, and whole items change sides.
    """
    if not len(first) == len(second) == len(tokens) or not first:
        raise ValueError(f"{len(first)} and {len(second)} items cannot be paired")
    differences = [one - other for one, other in zip(first, second, strict=True)]
    low, high = _interval(differences, tokens, draws, seed)
    return PairedDifference(
        items=len(tokens),
        wins=sum(each < 0 for each in differences),
        losses=sum(each > 0 for each in differences),
        difference=sum(differences) / sum(tokens),
        low=low,
        high=high,
        p_value=sign_flip_test(differences, draws, seed),
    )


def sign_flip_test(differences: Sequence[float], draws: int = 2_000, seed: int = 0) -> float:
    """Two-sided p-value of a sum, if each difference might as well have had the other sign (Fisher's randomization).

    Over all signs where they are few enough, else over `draws` random ones.
    """
    observed = abs(sum(differences)) * (1 - ROUNDING)
    moving = [each for each in differences if each]
    if 2 ** len(moving) <= draws:
        sums = [0.0]
        for each in moving:
            sums = [total + sign * each for total in sums for sign in (1, -1)]
        return sum(abs(total) >= observed for total in sums) / len(sums)
    generator = random.Random(seed)
    as_far = 0
    for _ in range(draws):
        signs = generator.getrandbits(len(moving))
        as_far += abs(sum(each if signs >> place & 1 else -each for place, each in enumerate(moving))) >= observed
    return (1 + as_far) / (1 + draws)


def sign_test(wins: int, losses: int) -> float:
    """Two-sided p-value of the exact sign test: as uneven a split of wins + losses fair coins, or a more uneven one."""
    tosses = wins + losses
    tail = sum(math.comb(tosses, k) for k in range(min(wins, losses) + 1))
    return float(min(1.0, 2 * tail / 2**tosses))


def wilson_interval(share: float, count: int, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a share observed in `count` trials (Wilson 1927)."""
    centre = share + z * z / (2 * count)
    spread = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def _interval(values: Sequence[float], weights: Sequence[int], draws: int, seed: int) -> tuple[float, float]:
    """95 % bootstrap interval of the sum of values over the sum of their weights."""
    generator, size = random.Random(seed), len(values)
    pairs = list(zip(values, weights, strict=True))
    found = []
    for _ in range(draws):
        drawn = generator.choices(pairs, k=size)
        found.append(sum(value for value, _ in drawn) / sum(weight for _, weight in drawn))
    found.sort()
    return found[int(0.025 * draws)], found[math.ceil(0.975 * draws) - 1]
