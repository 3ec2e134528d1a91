"""Texts to token ids: prompts, chat masks, and groups of examples cut to a token budget. No network is touched."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from jinja2 import TemplateError
from torch import Tensor

from sgg_core.shapes import ChatMessage

# Forward passes are cut to about this many tokens: beyond it a CPU gets no faster, memory grows with every token, and
# the mask of packed examples with their square.
TOKENS_PER_PASS = {"cpu": 512, "cuda": 2048}
# Stands within a special token's name that is a user's text. No data file holds a NUL.
BREAK = "\0"
TODAY = "26 Jul 2024"  # which Llama 3.2's template writes where it knows no other


@dataclass(frozen=True)
class Encoded:
    """One example as token ids. `targets` are (position, token) pairs: logits at `position` should give `token`.

    `types` tell the two texts of a pair apart, where the tokenizer does so; else they are empty.
    """

    ids: tuple[int, ...]
    label: int = -1
    targets: tuple[tuple[int, int], ...] = ()
    truncated: bool = False
    types: tuple[int, ...] = ()


def padded(rows: Sequence[Sequence[int]], pad: int, device: torch.device) -> Tensor:
    """(B, T) token ids, padded on the right to the longest row."""
    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *([pad] * (width - len(row)))] for row in rows], device=device)


def passes(items: Sequence[Encoded], budget: int, prefix: int | None = None, extra: int = 0) -> Iterator[list[int]]:
    """Indices of `items`, shortest first, so that examples of like length meet, in groups of about `budget` tokens.

    With a `prefix`, items lie in one row that holds this number of tokens once; without one they are rows padded to
    the longest. `extra` tokens are added to every item (a label trie). A single item over the budget is a group of
    its own.
    """
    order = sorted(range(len(items)), key=lambda index: len(items[index].ids))
    group: list[int] = []
    shared = prefix or 0
    used = shared
    for index in order:
        own = len(items[index].ids) - shared + extra
        total = own * (len(group) + 1) if prefix is None else used + own
        if group and total > budget:
            yield group
            group, total = [], shared + own
        group.append(index)
        used = total
    if group:
        yield group


def packed_size(rows: Sequence[Sequence[int]], extra: int = 0) -> int:
    """Number of tokens of `rows` in one pass that holds what they begin with once; `extra` follow each of them."""
    prefix = common_prefix(rows)
    return prefix + sum(len(row) - prefix + extra for row in rows)


def shown(item: Encoded) -> list[tuple[int, bool]]:
    """The tokens of an item whose targets are tokens, each with whether it is trained."""
    trained = {position + 1 for position, _ in item.targets}
    return [(token, index in trained) for index, token in enumerate(item.ids)]


def common_prefix(rows: Sequence[Sequence[int]]) -> int:
    """Number of leading tokens that all rows share."""
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, zip(*rows, strict=False)))


def label_prompt(description: str | None, labels: Sequence[str], list_labels: bool = True) -> str:
    """What a causal language model is told before the text: the task and, unless there are too many, its labels."""
    lines = [description or "Choose the label that fits the text."]
    if list_labels:
        lines.append(f"Labels: {', '.join(labels)}.")
    return "\n".join(lines)


def label_messages(prompt: str, text: str, text_pair: str | None) -> list[dict[str, str]]:
    """The chat that asks for a label of `text` (and `text_pair`)."""
    shown = f"Text: {text}" if text_pair is None else f"First text: {text}\nSecond text: {text_pair}"
    return [{"role": "user", "content": f"{prompt}\n\n{shown}"}]


def as_text(tokenizer: Any, text: str) -> str:
    """A user's text, with a break in the names of special tokens: `token_ids` finds their letters and no token."""
    for token in tokenizer.added_tokens_decoder.values():
        if token.special:
            text = text.replace(token.content, token.content[0] + BREAK + token.content[1:])
    return text


def opening(tokenizer: Any) -> str:
    """The token that the tokenizer puts before each text, as Llama's and Gemma's do; empty where it puts none there.

    A break follows: what comes then is the beginning of a text, before which some tokenizers see a space.
    """
    bos = tokenizer.bos_token_id
    begins = bos is not None and list(tokenizer("").input_ids[:1]) == [bos]
    return f"{tokenizer.bos_token}{BREAK}" if begins else ""


def completion_prompt(tokenizer: Any, prompt: str) -> str:
    """A prompt as the model is to see it before the completion: as it stands, after the `opening`."""
    return opening(tokenizer) + as_text(tokenizer, prompt)


def rendered(tokenizer: Any, messages: Sequence[dict[str, str]], for_answer: bool) -> str:
    """Messages as the base model's own chat template writes them, or in a plain form where it has none.

    Contents are written `as_text`. A template that can be told the date (`date_string`) is told one that never changes:
    an adapter is asked in the words that it was trained with. Raises ValueError for a conversation that the template
    refuses.
    """
    messages = [message | {"content": as_text(tokenizer, message["content"])} for message in messages]
    if tokenizer.chat_template:
        try:
            options = {"tokenize": False, "add_generation_prompt": for_answer, "date_string": TODAY}
            return str(tokenizer.apply_chat_template(messages, **options))
        except TemplateError as error:
            raise ValueError(f"the chat template refuses this conversation ({error})") from error
    text = "".join(f"{message['role'].capitalize()}: {message['content']}\n" for message in messages)
    return opening(tokenizer) + text + ("Assistant:" if for_answer else "")


def token_ids(tokenizer: Any, text: str) -> list[int]:
    """Token ids of `text` alone, which names its `opening` if it has one, without its breaks."""
    parts = text.split(BREAK)
    # not verbose: it would warn of texts that are longer than the model sees, and these are cut
    return [token for part in parts for token in tokenizer(part, add_special_tokens=False, verbose=False).input_ids]


def chat_segments(tokenizer: Any, messages: Sequence[ChatMessage]) -> list[tuple[str, bool]]:
    """The rendered chat cut into (text, trained) pieces; an assistant turn of weight 1 is trained, its header is not.

    Each turn is what its template adds to the chat before it, which every prefix-stable chat template obeys; a
    template that rewrites earlier turns raises ValueError, and so does a chat that begins with a trained turn.
    """
    plain = [{"role": message.role, "content": message.content} for message in messages]
    pieces: list[tuple[str, bool]] = []
    done = ""
    for index, message in enumerate(messages):
        whole = rendered(tokenizer, plain[: index + 1], for_answer=False)
        if not whole.startswith(done):
            raise ValueError("the chat template rewrites earlier turns")
        if message.role == "assistant" and message.weight:
            if index == 0:
                raise ValueError("its first turn is the assistant's, so there is nothing to answer")
            header = rendered(tokenizer, plain[:index], for_answer=True)
            if not (header.startswith(done) and whole.startswith(header)):
                raise ValueError("the chat template's generation prompt is not a prefix of the assistant's turn")
            pieces.append((header[len(done) :], False))
            pieces.append((whole[len(header) :], True))
        else:
            pieces.append((whole[len(done) :], False))
        done = whole
    return pieces
