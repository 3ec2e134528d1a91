"""Whether two classifiers differ on the same items, and what a validation file can show at all. Loads no torch."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

LEVEL = 0.05


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """Accuracy of one classifier less that of another on the same items.

    `low` and `high` bound the 95 % interval (bootstrap over items); `p_value` is of the exact sign test (McNemar).
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
    generator = random.Random(seed)
    means = sorted(sum(generator.choices(differences, k=size)) / size for _ in range(draws))
    return PairedDifference(
        items=size,
        wins=wins,
        losses=losses,
        difference=sum(differences) / size,
        low=means[int(0.025 * draws)],
        high=means[math.ceil(0.975 * draws) - 1],
        p_value=sign_test(wins, losses),
    )


def sign_test(wins: int, losses: int) -> float:
    """Two-sided p-value of the exact sign test: as uneven a split of wins + losses fair coins, or a more uneven one."""
    tosses = wins + losses
    tail = sum(math.comb(tosses, k) for k in range(min(wins, losses) + 1))
    return float(min(1.0, 2 * tail / 2**tosses))
