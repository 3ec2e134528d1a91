"""The supervised contrastive loss on an encoder's features: examples of one label near each other, others apart.

No example can lower its loss by being remembered alone, since its answer always comes from others. So the gradient
still tells what is common to a label when cross-entropy has long fitted the few examples and has nothing left to say.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from sgg_core.backbone import LoadedBase
from sgg_core.encoding import Encoded
from sgg_core.shapes import Example
from sgg_core.tasks.pooled_head import PooledHead
from sgg_core.tasks.task import LossSum

TEMPERATURE = 0.2


class Contrast:
    """What a pooled head's adapter is trained on in place of cross-entropy; the head is fitted when that is done.

    `kinship` (L, L) says how near the examples of two labels may be, as `supervised_contrast` takes it.
    """

    def __init__(self, head: PooledHead, kinship: Tensor | None = None) -> None:
        self.pooled = head
        self.base: LoadedBase = head.base
        self.labels = head.labels
        self.kinship = torch.eye(len(head.labels), device=head.base.device) if kinship is None else kinship

    def head(self) -> nn.Module | None:
        """None: the loss is of the features."""
        return None

    def passes(self, items: Sequence[Encoded], scoring: bool = False) -> Iterator[list[int]]:
        """All at once, since every example is compared with all others."""
        return iter([list(range(len(items)))])

    def positions(self, items: Sequence[Encoded], scoring: bool = False) -> list[int]:
        """Tokens of all passes, whose graphs are there at once."""
        return [sum(self.pooled.positions(items, scoring))]

    def shown(self, item: Encoded) -> list[tuple[int, bool]]:
        """As the pooled head does."""
        return self.pooled.shown(item)

    def template(self) -> str | None:
        """Texts are shown as they are."""
        return self.pooled.template()

    def units(self, items: Sequence[Encoded]) -> int:
        """Examples that share their label with another one."""
        return len(anchors(torch.tensor([item.label for item in items])))

    def encode(self, examples: Sequence[Example]) -> list[Encoded]:
        """As the pooled head does."""
        return self.pooled.encode(examples)

    def loss(self, items: Sequence[Encoded]) -> LossSum:
        """Contrastive loss, summed; right is an example whose nearest neighbour has its label."""
        features = self._features(items)
        labels = torch.tensor([item.label for item in items], device=features.device)
        return LossSum(
            supervised_contrast(features, labels, self.kinship, TEMPERATURE),
            self.units(items),
            neighbour_hits(features.detach(), labels),
        )

    def _features(self, items: Sequence[Encoded]) -> Tensor:
        """(B, d), from the pooled head's passes."""
        groups = list(self.pooled.passes(items))
        parts = [self.pooled.features([items[index] for index in group]) for group in groups]
        order = torch.tensor([index for group in groups for index in group], device=parts[0].device)
        return torch.cat(parts)[order.argsort()]

    def log_probabilities(self, items: Sequence[Encoded]) -> Tensor:
        """(B, B - 1) log p(j) that another example j is the nearest one, as the loss takes it; there is no head yet."""
        features = self._features(items)
        itself = torch.eye(len(items), dtype=torch.bool, device=features.device)
        scores = (features @ features.T / TEMPERATURE)[~itself].reshape(len(items), len(items) - 1)
        return scores.log_softmax(1)


def anchors(labels: Tensor) -> Tensor:
    """Indices of the examples whose label another one has, too."""
    return (labels[:, None] == labels[None]).sum(1).gt(1).nonzero()[:, 0]


def supervised_contrast(features: Tensor, labels: Tensor, kinship: Tensor, temperature: float) -> Tensor:
    """Sum over examples i with others of their label of -sum_j k_ij log softmax_(j != i)(f_i f_j / t)_j / sum_j k_ij.

    `features` are (B, d) of unit length, `labels` (B,) indices of the rows and columns of `kinship` (L, L), whose
    entries k are from 0 to 1 and 1 on the diagonal. Of the unit matrix this is Khosla et al. 2020, arXiv:2004.11362,
    equation 2; else examples of a label that is akin count as its own, by so much.
    """
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    share = kinship[labels][:, labels].masked_fill(itself, 0.0)
    scores = (features @ features.T / temperature).masked_fill(itself, -torch.inf)
    log_share = (scores - scores.logsumexp(1, keepdim=True)).masked_fill(itself, 0.0)
    kept = anchors(labels)
    return -((share * log_share).sum(1)[kept] / share.sum(1)[kept]).sum()


def neighbour_hits(features: Tensor, labels: Tensor) -> int:
    """How many of the examples that share their label have their nearest neighbour (by cosine) among these."""
    kept = anchors(labels)
    nearest = (features @ features.T).fill_diagonal_(-torch.inf).argmax(1)
    return int((labels[nearest] == labels)[kept].sum())
