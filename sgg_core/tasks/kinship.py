"""Which labels' examples may lie near each other, as those of bad and terrible, where none can tell them apart.

Contrast drives all labels apart alike. Where the examples of bad and terrible are mixed beyond help, this costs what
they have in common against good. Where labels can be told apart, kinship would only blur what they differ in, however
much alike they are called (docs/decisions/0032-*).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

FEWEST = 4  # examples of each label; fewer say nothing about how they are mixed
MIXED = 0.5  # of the examples are told apart where kinship begins to count


def kinship_of(examples: Tensor, gold: Tensor, names: Tensor, named: Tensor, labels: int) -> Tensor:
    """Kinship (L, L) for `supervised_contrast`: `akin`, or the unit matrix where the examples are told apart.

    `examples` (B, d) are of labels `gold` (B,), `names` (M, d) of labels `named` (M,), all of unit length.
    """
    few = int(gold.bincount(minlength=labels).min()) < FEWEST
    if labels < 3 or few or told_apart(examples, gold, names, named, labels) >= MIXED:
        return torch.eye(labels, dtype=names.dtype, device=names.device)
    return akin(names, named, labels)


def akin(names: Tensor, named: Tensor, labels: int) -> Tensor:
    """How akin labels are by their names (M, d) of labels `named` (M,): (L, L) from 0 to 1, 1 on the diagonal.

    Of the cosine of two labels' mean names it is what exceeds the mean of all pairs, as a share of what that lacks
    of 1, so that bad may be near terrible, and not near great.
    """
    mean = functional.normalize(_sums(names, named, labels), dim=-1)
    cosines = mean @ mean.T
    itself = torch.eye(labels, dtype=torch.bool, device=names.device)
    usual = cosines[~itself].mean()
    return ((cosines - usual) / (1 - usual)).clamp_min(0.0).masked_fill(itself, 1.0)


def told_apart(examples: Tensor, gold: Tensor, names: Tensor, named: Tensor, labels: int) -> float:
    """Share of examples that are nearer to the mean of their label's others and its names than to any other label's."""
    sums = _sums(torch.cat([examples, names]), torch.cat([gold, named]), labels)
    to_others = examples @ functional.normalize(sums, dim=-1).T
    without = functional.normalize(sums[gold] - examples, dim=-1)
    rivals = to_others.scatter(1, gold[:, None], -torch.inf).amax(1)
    return float(((without * examples).sum(1) > rivals).float().mean())


def _sums(rows: Tensor, labels: Tensor, count: int) -> Tensor:
    return torch.zeros(count, rows.shape[1], dtype=rows.dtype, device=rows.device).index_add(0, labels, rows)
