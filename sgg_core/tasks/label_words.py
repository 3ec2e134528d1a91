"""Classification by label words on a causal language model: the labels themselves are what the model says.

No new weights: p(label | prompt) is the language model's own probability of the label's tokens, restricted to the
strings that are labels (label_trie.py). Training minimizes -log p(gold label), scoring compares all labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sgg_core import encoding, packing
from sgg_core.backbone import LoadedBase, fresh_cache, hidden_states, layer_states, states_after
from sgg_core.encoding import TOKENS_PER_PASS, Encoded
from sgg_core.errors import SpecError
from sgg_core.label_trie import LabelTrie
from sgg_core.shapes import ClassificationExample, Example
from sgg_core.tasks.task import LossSum

# Beyond this many tokens the list of labels is left out of the prompt: it would be most of every example.
LABEL_LIST_TOKENS = 200
# The answer begins with this word, so that the next token is a label and not a sentence about it.
ANSWER_LEAD = "Label:"


class LabelWords:
    """Label-word classification over `labels`, with an optional sentence that describes the task."""

    def __init__(self, base: LoadedBase, labels: Sequence[str], description: str | None, max_tokens: int) -> None:
        self.base = base
        self.labels = tuple(labels)
        self.description = description
        tokenizer = base.tokenizer
        joint = len(encoding.token_ids(tokenizer, ", ".join(labels)))
        self.prompt = encoding.label_prompt(description, self.labels, list_labels=joint <= LABEL_LIST_TOKENS)
        # A leading space: most tokenizers keep common words with one as a single token.
        self.label_ids = [encoding.token_ids(tokenizer, encoding.as_text(tokenizer, f" {label}")) for label in labels]
        try:
            self.trie = LabelTrie(self.label_ids, tokenizer.eos_token_id)
        except ValueError as error:
            raise SpecError(
                f"The base model's tokenizer cannot tell the labels apart: {error}.", "Rename one."
            ) from error
        self._prefix: tuple[Tensor, Any] | None = None
        self.max_tokens = min(max_tokens, base.entry.context_tokens) - max(len(ids) for ids in self.label_ids) - 1
        empty = len(self._prompt_ids("", ""))  # of two texts, which takes more words
        if empty + 8 > self.max_tokens:
            raise SpecError(
                f"task.max_tokens: the prompt without its text takes {empty} of {self.max_tokens} tokens.",
                "Raise task.max_tokens or shorten task.description.",
            )

    def head(self) -> nn.Module | None:
        """Nothing beside the adapter."""
        return None

    def passes(self, items: Sequence[Encoded], scoring: bool = False) -> Iterator[list[int]]:
        """Packed examples, with the trie's nodes when scoring."""
        extra = len(self.trie.tokens) if scoring else 0
        prefix = encoding.common_prefix([item.ids for item in items])
        return encoding.passes(items, TOKENS_PER_PASS[self.base.device.type], prefix, extra)

    def positions(self, items: Sequence[Encoded], scoring: bool = False) -> list[int]:
        """Tokens of each packed pass."""
        extra = len(self.trie.tokens) if scoring else 0
        return [
            encoding.packed_size([items[index].ids for index in group], extra) for group in self.passes(items, scoring)
        ]

    def shown(self, item: Encoded) -> list[tuple[int, bool]]:
        """Prompt and gold label, up to the last token that tells labels apart; the tokens that do are trained."""
        tokens = [(token, False) for token in item.ids]
        path = self.trie.paths[item.label] if item.targets else []
        for (position, branch), (_, child) in zip(item.targets, path, strict=True):
            tokens[position + 1 :] = [(self.trie.branches[branch][1][child], True), *tokens[position + 2 :]]
        return tokens

    def template(self) -> str | None:
        """The prompt with `{text}` in the text's place; the label follows."""
        messages = encoding.label_messages(self.prompt, "{text}", None)
        return self._rendered(messages).replace(encoding.BREAK, "")

    def units(self, items: Sequence[Encoded]) -> int:
        """Examples."""
        return len(items)

    def encode(self, examples: Sequence[Example]) -> list[Encoded]:
        """Prompt, then the gold label's tokens up to its last branching node; an unknown label is left out."""
        encoded = []
        for example in examples:
            assert isinstance(example, ClassificationExample)
            prompt, truncated = self._fitted(example)
            if example.label not in self.labels:
                encoded.append(Encoded(tuple(prompt), truncated=truncated))
                continue
            label = self.labels.index(example.label)
            path = self.trie.paths[label]
            depths = [self._depth(branch) for branch, _ in path]
            targets = tuple((len(prompt) - 1 + depth, branch) for depth, (branch, _) in zip(depths, path, strict=True))
            gold = self.label_ids[label][: max(depths, default=0)]
            encoded.append(Encoded((*prompt, *gold), label, targets, truncated))
        return encoded

    def loss(self, items: Sequence[Encoded]) -> LossSum:
        """-log p(gold label), summed; an item is right if every choice on its path is."""
        packed = packing.pack([item.ids for item in items], self.base.device)
        states = hidden_states(self.base, packed.ids, packed.mask, packed.positions)[0]
        by_branch: dict[int, list[tuple[int, int, int]]] = {}
        for row, item in enumerate(items):
            for (position, branch), (_, child) in zip(item.targets, self.trie.paths[item.label], strict=True):
                by_branch.setdefault(branch, []).append((row, packed.place(row, position), child))
        terms: list[Tensor] = []
        wrong: set[int] = set()
        for branch, places in by_branch.items():
            rows, at, children = (list(column) for column in zip(*places, strict=True))
            scores = self._child_logits(branch, states[at])
            gold = torch.tensor(children, device=scores.device)
            terms.append(functional.cross_entropy(scores, gold, reduction="sum"))
            missed = scores.argmax(-1) != gold
            wrong.update(row for row, miss in zip(rows, missed.tolist(), strict=True) if miss)
        return LossSum(torch.stack(terms).sum(), len(items), len(items) - len(wrong))

    def log_probabilities(self, items: Sequence[Encoded]) -> Tensor:
        """(B, L) log p(label), every label scored in the one pass over its example's prompt."""
        prompts = [item.ids[: self._prompt_length(item)] for item in items]
        packed = packing.pack(prompts, self.base.device, self.trie)
        return self._label_scores(packed, prompts, self._scoring_states(packed))

    def look(self, items: Sequence[Encoded], depths: Sequence[float]) -> tuple[list[Tensor], Tensor]:
        """States (B, d) that the label's first token is predicted from, after these shares of the layers; log p(label).

        In one pass, of items that `passes` has grouped for scoring.
        """
        prompts = [item.ids[: self._prompt_length(item)] for item in items]
        packed = packing.pack(prompts, self.base.device, self.trie)
        found = layer_states(self.base, packed.ids, packed.mask, packed.positions)
        at = [packed.place(row, len(prompt) - 1) for row, prompt in enumerate(prompts)]
        states = [found[round(depth * (len(found) - 1))][0, at] for depth in depths]
        return states, self._label_scores(packed, prompts, found[-1][0])

    @property
    def keeps_prefix(self) -> bool:
        """Whether `keep_prefix` was called."""
        return self._prefix is not None

    def keep_prefix(self) -> None:
        """Compute what all prompts begin with once, from now on. Only while base model and adapter do not change."""
        prompts = (self._prompt_ids("a", None), self._prompt_ids("1", None), self._prompt_ids("a", "1"))
        size = encoding.common_prefix(prompts)
        if size:
            ids = torch.tensor([prompts[0][:size]], device=self.base.device)
            cache = fresh_cache(self.base)
            with torch.inference_mode():
                states_after(self.base, ids, cache)
            self._prefix = ids, cache

    def _label_scores(self, packed: packing.Packed, prompts: Sequence[Sequence[int]], states: Tensor) -> Tensor:
        """(B, L) log p(label) from the states (T, d) of packed prompts with the trie's nodes."""
        choices: list[Tensor] = []
        for branch, (node, _) in enumerate(self.trie.branches):
            at = [
                packed.place(row, len(prompt) - 1) if node == 0 else packed.node(row, node - 1)
                for row, prompt in enumerate(prompts)
            ]
            choices.append(self._child_logits(branch, states[at]).log_softmax(-1))
        columns = [
            torch.stack([choices[branch][:, child] for branch, child in path]).sum(0) for path in self.trie.paths
        ]
        return torch.stack(columns, dim=1).cpu()

    def _scoring_states(self, packed: packing.Packed) -> Tensor:
        """(T, d) hidden states of packed prompts; with a kept prefix, those of its tokens are left zero."""
        if self._prefix is not None:
            ids, cache = self._prefix
            size = ids.shape[1]
            if size <= packed.prefix and size < packed.ids.shape[1] and torch.equal(packed.ids[:, :size], ids):
                mask, positions = packed.mask[:, :, size:], packed.positions[:, size:]
                kept, self._prefix = self._prefix, None  # a pass that fails leaves a cache that nobody can use
                own = states_after(self.base, packed.ids[:, size:], cache, attention_mask=mask, position_ids=positions)
                cache.crop(-own.shape[1])
                self._prefix = kept
                return functional.pad(own[0], (0, 0, size, 0))
        return hidden_states(self.base, packed.ids, packed.mask, packed.positions)[0]

    def _child_logits(self, branch: int, states: Tensor) -> Tensor:
        """(B, children) logits of one branching node's children; only their rows of the output layer are used."""
        layer = self.base.model.get_output_embeddings()
        children = torch.tensor(self.trie.branches[branch][1], device=states.device)
        bias = None if layer.bias is None else layer.bias[children].float()
        return functional.linear(states.float(), layer.weight[children].float(), bias)

    def _prompt_length(self, item: Encoded) -> int:
        if not item.targets:
            return len(item.ids)
        position, branch = item.targets[0]
        return position + 1 - self._depth(branch)

    def _depth(self, branch: int) -> int:
        row = self.trie.branches[branch][0]
        return 0 if row == 0 else self.trie.depths[row - 1]

    def _prompt_ids(self, text: str, text_pair: str | None) -> list[int]:
        return encoding.token_ids(self.base.tokenizer, self._rendered(self._messages(text, text_pair)))

    def _messages(self, text: str, text_pair: str | None) -> list[dict[str, str]]:
        return encoding.label_messages(self.prompt, text, text_pair)

    def _rendered(self, messages: list[dict[str, str]]) -> str:
        return encoding.rendered(self.base.tokenizer, messages, for_answer=True) + ANSWER_LEAD

    def _fitted(self, example: ClassificationExample) -> tuple[list[int], bool]:
        """Token ids of the prompt, with the text cut at its end until they fit."""
        ids = self._prompt_ids(example.text, example.text_pair)
        if len(ids) <= self.max_tokens:
            return ids, False
        text, pair = example.text, example.text_pair
        while len(ids) > self.max_tokens and (text or pair):
            # The longer of the two loses; tokens are counted on the text alone, so a second round can be needed.
            cut_pair = pair is not None and len(pair) >= len(text)
            kept = encoding.token_ids(self.base.tokenizer, pair if cut_pair and pair else text)
            shorter = self.base.tokenizer.decode(kept[: max(0, len(kept) - (len(ids) - self.max_tokens))])
            shorter = shorter.rstrip("\ufffd")  # a character cut in its middle, as several tokens again
            text, pair = (text, shorter) if cut_pair else (shorter, pair)
            ids = self._prompt_ids(text, pair)
        return ids, True
