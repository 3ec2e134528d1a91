"""Classification by label words on a causal language model: the labels themselves are what the model says.

No new weights: p(label | prompt) is the language model's own probability of the label's tokens, restricted to the
strings that are labels (label_trie.py). Training minimizes -log p(gold label), scoring compares all labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from sgg_core import encoding, packing
from sgg_core.backbone import LoadedBase, hidden_states
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
        tokenizer = base.tokenizer
        joint = len(encoding.token_ids(tokenizer, ", ".join(labels)))
        self.prompt = encoding.label_prompt(description, self.labels, list_labels=joint <= LABEL_LIST_TOKENS)
        # A leading space: most tokenizers keep common words with one as a single token.
        self.label_ids = [encoding.token_ids(tokenizer, f" {label}") for label in self.labels]
        try:
            self.trie = LabelTrie(self.label_ids, tokenizer.eos_token_id)
        except ValueError as error:
            raise SpecError(
                f"The base model's tokenizer cannot tell the labels apart: {error}.", "Rename one."
            ) from error
        self.max_tokens = min(max_tokens, base.entry.context_tokens) - max(len(ids) for ids in self.label_ids) - 1
        empty = len(self._prompt_ids("", ""))  # of two texts, which takes more words
        if empty + 8 > self.max_tokens:
            raise SpecError(
                f"task.max_tokens: the prompt alone takes {empty} tokens of {self.max_tokens}.",
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

    def template(self) -> str | None:
        """The prompt with `{text}` in the text's place; the label follows."""
        messages = encoding.label_messages(self.prompt, "{text}", None)
        return self._rendered(messages)

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
        states = hidden_states(self.base, packed.ids, packed.mask, packed.positions)[0]
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
        messages = encoding.label_messages(self.prompt, text, text_pair)
        return encoding.token_ids(self.base.tokenizer, self._rendered(messages))

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
