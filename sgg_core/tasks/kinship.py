"""Which labels' examples may lie near each other, as those of bad and terrible, where none can tell them apart.

Contrast drives all labels apart alike. Where the examples of bad and terrible are mixed beyond help, this costs what
they have in common against good. Where labels can be told apart, kinship would only blur what they differ in, however
much alike they are called (docs/decisions/0032-*).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

FEWEST = 4  # examples of each label; fewer say nothing about how they are mixed
MIXED = 0.5  # of the examples are told apart where kinship begins to count
SAME = 1 - 1e-5  # cosine of names that the tokenizer cannot tell apart, which say nothing
NEGATIONS = ("not ", "no ", "non ", "non-", "un", "dis", "in", "im", "ir", "il")


def kinship_of(examples: Tensor, gold: Tensor, names: Tensor, named: Tensor, labels: Sequence[str]) -> Tensor:
    """Kinship (L, L) for `supervised_contrast`: `akin`, or the unit matrix where the examples are told apart.

    `examples` (B, d) are of labels `gold` (B,), `names` (M, d) of labels `named` (M,), all of unit length. A label and
    its negation are not akin, as near as their names are.
    """
    count = len(labels)
    few = int(gold.bincount(minlength=count).min()) < FEWEST
    if count < 3 or few or told_apart(examples, gold, names, named, count) >= MIXED:
        return torch.eye(count, dtype=names.dtype, device=names.device)
    return akin(names, named, count).masked_fill(negated(labels).to(names.device), 0.0)


def akin(names: Tensor, named: Tensor, labels: int) -> Tensor:
    """How akin labels are by their names (M, d) of labels `named` (M,): (L, L) from 0 to 1, 1 on the diagonal.

    Of the cosine of two labels' mean names it is what exceeds the mean of all pairs, as a share of what that lacks
    of 1, so that bad may be near terrible, and not near great.
    """
    mean = functional.normalize(_sums(names, named, labels), dim=-1)
    cosines = mean @ mean.T
    itself = torch.eye(labels, dtype=torch.bool, device=names.device)
    pairs = ~itself & (cosines < SAME)
    usual = cosines[pairs].mean() if pairs.any() else 0.0
    return ((cosines - usual) / (1 - usual)).clamp_min(0.0).masked_fill(~pairs, 0.0).masked_fill(itself, 1.0)


def negated(labels: Sequence[str]) -> Tensor:
    """(L, L) which two labels are one and its negation, such as safe and unsafe, or toxic and not toxic."""
    plain = [label.replace("_", " ").casefold() for label in labels]
    return torch.tensor([[any(a == no + b or b == no + a for no in NEGATIONS) for b in plain] for a in plain])


def told_apart(examples: Tensor, gold: Tensor, names: Tensor, named: Tensor, labels: int) -> float:
    """Share of examples that are nearer to the mean of their label's others and its names than to any other label's."""
    sums = _sums(torch.cat([examples, names]), torch.cat([gold, named]), labels)
    to_others = examples @ functional.normalize(sums, dim=-1).T
    without = functional.normalize(sums[gold] - examples, dim=-1)
    rivals = to_others.scatter(1, gold[:, None], -torch.inf).amax(1)
    return float(((without * examples).sum(1) > rivals).float().mean())


def _sums(rows: Tensor, labels: Tensor, count: int) -> Tensor:
    return torch.zeros(count, rows.shape[1], dtype=rows.dtype, device=rows.device).index_add(0, labels, rows)
