"""Classification by a linear head on an encoder's mean-pooled hidden states."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from sgg_core import encoding
from sgg_core.backbone import LoadedBase, Mask, hidden_states, layer_states
from sgg_core.encoding import TOKENS_PER_PASS, Encoded
from sgg_core.errors import TrainingDivergedError
from sgg_core.seeding import derived_seed
from sgg_core.shapes import ClassificationExample, Example
from sgg_core.tasks.task import LossSum
from sgg_core.texts_in_rows import Texts, first_position, laid_out
from sgg_core.torch_seeding import torch_seed

DECAY, DECAY_LABELS = 1e-3, 6  # of up to so many labels; chosen on held-out examples (docs/decisions/0029-*)


class PooledHead:
    """Mean pooling over real tokens, unit length, then a linear layer (d -> L) over `labels`."""

    def __init__(self, base: LoadedBase, labels: Sequence[str], max_tokens: int, seed: int) -> None:
        self.base = base
        self.labels = tuple(labels)
        self.max_tokens = min(max_tokens, base.entry.context_tokens)
        # BERT's tokenizer also comes with encoders that know no types, or one only (DistilBERT, RoBERTa).
        self.knows_types = getattr(base.model.config, "type_vocab_size", 0) > 1
        # None: each text is a row, padded. So it is on a GPU, where each length would be a launch of its own.
        self.first_position = first_position(base.model) if base.device.type == "cpu" else None
        with torch_seed(derived_seed(seed, "head", *self.labels)):
            self.linear = nn.Linear(base.hidden_size, len(self.labels), device=base.device)

    def head(self) -> nn.Module | None:
        """The linear layer."""
        return self.linear

    def passes(self, items: Sequence[Encoded], scoring: bool = False) -> Iterator[list[int]]:
        """Texts in one row, or rows padded to the longest."""
        prefix = None if self.first_position is None else 0
        return encoding.passes(items, TOKENS_PER_PASS[self.base.device.type], prefix)

    def positions(self, items: Sequence[Encoded], scoring: bool = False) -> list[int]:
        """Tokens of each pass, padding included."""
        lengths = [[len(items[index].ids) for index in group] for group in self.passes(items, scoring)]
        return [len(own) * max(own) if self.first_position is None else sum(own) for own in lengths]

    def shown(self, item: Encoded) -> list[tuple[int, bool]]:
        """All tokens; none is trained, since the head answers for the text as a whole."""
        return [(token, False) for token in item.ids]

    def template(self) -> str | None:
        """Texts are shown as they are."""
        return None

    def units(self, items: Sequence[Encoded]) -> int:
        """Examples."""
        return len(items)

    def encode(self, examples: Sequence[Example]) -> list[Encoded]:
        """Token ids with the encoder's special tokens, whose names in a text stay text; the longer of a pair is cut."""
        encoded = []
        for example in examples:
            assert isinstance(example, ClassificationExample)
            # not verbose: it would warn of texts that are longer than the model sees, and these are cut
            tokenize = partial(
                self.base.tokenizer, example.text, example.text_pair, split_special_tokens=True, verbose=False
            )
            whole = tokenize()
            cut = len(whole.input_ids) > self.max_tokens
            shown = tokenize(truncation=True, max_length=self.max_tokens) if cut else whole
            label = self.labels.index(example.label) if example.label in self.labels else -1
            ids, types = tuple(shown.input_ids), tuple(shown.get("token_type_ids", ()) if self.knows_types else ())
            encoded.append(Encoded(ids, label, truncated=cut, types=types))
        return encoded

    def loss(self, items: Sequence[Encoded]) -> LossSum:
        """Cross-entropy, summed."""
        scores = self._scores(items)
        gold = torch.tensor([item.label for item in items], device=scores.device)
        correct = int((scores.argmax(-1) == gold).sum())
        return LossSum(functional.cross_entropy(scores, gold, reduction="sum"), len(items), correct)

    def log_probabilities(self, items: Sequence[Encoded]) -> Tensor:
        """(B, L) log p(label)."""
        return self._scores(items).log_softmax(-1).cpu()

    def features(self, items: Sequence[Encoded]) -> Tensor:
        """(B, d) unit-length mean-pooled hidden states."""
        return self._pooled(items, hidden_states(self.base, *self._batch(items)))

    def look(self, items: Sequence[Encoded], depths: Sequence[float]) -> list[Tensor]:
        """What `features` gives, of the states after these shares of the layers; in one pass, of items that fit one."""
        found = layer_states(self.base, *self._batch(items))
        return [self._pooled(items, found[round(depth * (len(found) - 1))]) for depth in depths]

    def _batch(self, items: Sequence[Encoded]) -> tuple[Tensor, Mask, Tensor | None, Tensor | None]:
        """What `hidden_states` takes, with types where the tokenizer gives them."""
        ids, types = [item.ids for item in items], [item.types for item in items if item.types]
        pad, device = self.base.tokenizer.pad_token_id, self.base.device
        if self.first_position is None:
            mask = encoding.padded([[1] * len(row) for row in ids], 0, device)
            return encoding.padded(ids, pad, device), mask, None, encoding.padded(types, 0, device) if types else None
        positions = laid_out([range(self.first_position, self.first_position + len(row)) for row in ids], device)
        texts = Texts((tuple(len(row) for row in ids),))
        return laid_out(ids, device), texts, positions, laid_out(types, device) if types else None

    def _pooled(self, items: Sequence[Encoded], states: Tensor) -> Tensor:
        """(B, d) unit-length means of each item's own states, of those (B, T, d) or (1, T, d) of the batch."""
        lengths = torch.tensor([len(item.ids) for item in items], device=states.device)
        if self.first_position is None:
            own = torch.arange(states.shape[1], device=states.device) < lengths[:, None]
            sums = (states.float() * own[..., None]).sum(1)
        else:
            rows = torch.arange(len(items), device=states.device).repeat_interleave(lengths)
            none = torch.zeros(len(items), states.shape[2], device=states.device)
            sums = none.index_add(0, rows, states[0].float())
        return functional.normalize(sums / lengths[:, None], dim=-1)

    def fit(self, items: Sequence[Encoded], features: Tensor) -> None:
        """Set the head to the L2-regularized logistic regression on frozen features (B, d).

        A probed head before fine-tuning keeps the first steps from distorting good features (LP-FT, Kumar et al.,
        ICLR 2022). Raises TrainingDivergedError where the features are not finite.
        """
        if not features.isfinite().all():
            message = "The features of the training examples are not finite."
            raise TrainingDivergedError(message, "Lower the learning rate.")
        gold = torch.tensor([item.label for item in items], device=features.device)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        logistic_regression(self.linear, features, gold)

    def _scores(self, items: Sequence[Encoded]) -> Tensor:
        return self.linear(self.features(items))  # type: ignore[no-any-return]


def logistic_regression(linear: nn.Linear, features: Tensor, gold: Tensor) -> None:
    """Fit a linear layer to features (B, d) and label indices (B,): cross-entropy plus a decay of |W|^2, by L-BFGS.

    With the number of labels the length of W that tells them apart grows, so that the decay has to fall.
    """
    decay = DECAY / max(1.0, linear.out_features / DECAY_LABELS)
    optimizer = torch.optim.LBFGS(linear.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = functional.cross_entropy(linear(features), gold) + decay * linear.weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
