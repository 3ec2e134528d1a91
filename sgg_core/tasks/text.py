"""Supervised fine-tuning of a causal language model on completions and chats."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from sgg_core import encoding, packing
from sgg_core.backbone import LoadedBase, hidden_states, logits
from sgg_core.encoding import TOKENS_PER_PASS, Encoded
from sgg_core.errors import Problem
from sgg_core.examples import ExampleSet
from sgg_core.shapes import ChatExample, CompletionExample, Example
from sgg_core.tasks.task import LossSum
from sgg_core.token_limit import more_room

# Logits over the vocabulary are made for this many positions at a time, and made again in the backward pass where there
# are more: all of them at once would be the largest tensor of the run.
POSITIONS_PER_CHUNK = 512


class TextTask:
    """Next-token loss on completions (plain text, ended by the end-of-text token) and on assistant turns of chats."""

    labels: tuple[str, ...] = ()

    def __init__(self, base: LoadedBase, max_tokens: int) -> None:
        self.base = base
        self.max_tokens = min(max_tokens, base.entry.context_tokens)

    def head(self) -> nn.Module | None:
        """Nothing beside the adapter."""
        return None

    def passes(self, items: Sequence[Encoded], scoring: bool = False) -> Iterator[list[int]]:
        """Packed examples."""
        prefix = encoding.common_prefix([item.ids for item in items])
        return encoding.passes(items, TOKENS_PER_PASS[self.base.device.type], prefix)

    def positions(self, items: Sequence[Encoded], scoring: bool = False) -> list[int]:
        """Tokens of each packed pass."""
        return [encoding.packed_size([items[index].ids for index in group]) for group in self.passes(items, scoring)]

    def shown(self, item: Encoded) -> list[tuple[int, bool]]:
        """All tokens; trained are completions with their end, and the assistant's turns of weight 1."""
        return encoding.shown(item)

    def template(self) -> str | None:
        """Texts are shown as they are, chats by the tokenizer's own template."""
        return None

    def units(self, items: Sequence[Encoded]) -> int:
        """Trained tokens."""
        return sum(len(item.targets) for item in items)

    def encode(self, examples: Sequence[Example]) -> list[Encoded]:
        """Token ids and the trained positions; raises ValueError on a chat that cannot be rendered and masked."""
        return [self._encoded(self._segments(example)) for example in examples]

    def encode_file(self, data: ExampleSet) -> list[Encoded]:
        """A file's examples; raises the file's `refusal` naming every one that cannot be used.

        One that does not fit is refused: a cut completion would teach to stop in mid-sentence.
        """
        items: list[Encoded] = []
        problems: list[Problem] = []
        for line, example in zip(data.lines, data.examples, strict=True):
            try:
                items += self.encode([example])
            except ValueError as error:
                reason = f"The base model cannot read this conversation: {error}."
                problems.append(
                    Problem(line, "messages", reason, "Begin with a user message, then alternate the roles.")
                )
                continue
            problem = self.too_long(items[-1], line)
            if problem is not None:
                problems.append(problem)
        if problems:
            raise data.refusal(data.filename, tuple(problems))
        return items

    def too_long(self, item: Encoded, line: int) -> Problem | None:
        """What to say of an example that does not fit."""
        if len(item.ids) <= self.max_tokens:
            return None
        reason = f"The example has {len(item.ids):,} tokens; at most {self.max_tokens:,} fit."
        return Problem(line, None, reason, f"Shorten it, or {more_room(self.base.entry, self.max_tokens)}.")

    def loss(self, items: Sequence[Encoded]) -> LossSum:
        """Cross-entropy over the trained tokens, summed."""
        picked = self._trained_states(items)
        gold = torch.tensor([token for item in items for _, token in item.targets], device=self.base.device)
        total = picked.new_zeros((), dtype=torch.float32)
        correct = 0
        for start in range(0, len(gold), POSITIONS_PER_CHUNK):
            chunk = slice(start, start + POSITIONS_PER_CHUNK)
            given = picked[chunk], gold[chunk]
            alone = len(gold) <= POSITIONS_PER_CHUNK
            loss, hits = self._chunk(*given) if alone else checkpoint(self._chunk, *given, use_reentrant=False)
            total = total + loss
            correct += int(hits)
        return LossSum(total, len(gold), correct)

    def token_scores(self, items: Sequence[Encoded]) -> tuple[Tensor, Tensor]:
        """(T,) losses of the trained tokens, item by item, and whether each was the likeliest, without gradient."""
        picked = self._trained_states(items)
        gold = torch.tensor([token for item in items for _, token in item.targets], device=self.base.device)
        losses, hits = [], []
        for start in range(0, len(gold), POSITIONS_PER_CHUNK):
            chunk = slice(start, start + POSITIONS_PER_CHUNK)
            scores = logits(self.base, picked[chunk])
            losses.append(functional.cross_entropy(scores, gold[chunk], reduction="none"))
            hits.append(scores.argmax(-1) == gold[chunk])
        return torch.cat(losses).cpu(), torch.cat(hits).cpu()

    def log_probabilities(self, items: Sequence[Encoded]) -> Tensor:
        """(T, V) log p(next token) at the trained positions, item by item."""
        return logits(self.base, self._trained_states(items)).log_softmax(-1).cpu()

    def _trained_states(self, items: Sequence[Encoded]) -> Tensor:
        """(T, d) hidden states that the trained tokens are predicted from."""
        packed = packing.pack([item.ids for item in items], self.base.device)
        states = hidden_states(self.base, packed.ids, packed.mask, packed.positions)[0]
        return states[[packed.place(row, position) for row, item in enumerate(items) for position, _ in item.targets]]

    def _chunk(self, states: Tensor, gold: Tensor) -> tuple[Tensor, Tensor]:
        scores = logits(self.base, states)
        return functional.cross_entropy(scores, gold, reduction="sum"), (scores.argmax(-1) == gold).sum()

    def _segments(self, example: Example) -> list[tuple[str, bool]]:
        if isinstance(example, CompletionExample):
            tokenizer = self.base.tokenizer
            prompt = encoding.completion_prompt(tokenizer, example.prompt)
            return [(prompt, False), (encoding.as_text(tokenizer, example.completion) + tokenizer.eos_token, True)]
        assert isinstance(example, ChatExample)
        return encoding.chat_segments(self.base.tokenizer, example.messages)

    def _encoded(self, segments: Sequence[tuple[str, bool]]) -> Encoded:
        """Segments are tokenized one by one, so that the mask's borders are token borders."""
        ids: list[int] = []
        targets: list[tuple[int, int]] = []
        for text, trained in segments:
            tokens = encoding.token_ids(self.base.tokenizer, text)
            if trained:
                targets += [(len(ids) + offset - 1, token) for offset, token in enumerate(tokens) if len(ids) + offset]
            ids += tokens
        return Encoded(tuple(ids), targets=tuple(targets))
