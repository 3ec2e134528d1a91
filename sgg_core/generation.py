"""Text from a causal language model, token by token, so that it can be streamed, and stopped at any one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from sgg_core.backbone import LoadedBase, fresh_cache, logits, states_after
from sgg_core.trials import ContextLengthError, Sampling, WrittenText


def write(base: LoadedBase, prompt: Sequence[int], sampling: Sampling) -> Iterator[WrittenText]:
    """Yield what is written after the token ids `prompt`, longer each time, until it has a `finish_reason`.

    Ends at the model's own end token, before the first stop text, or when `max_tokens` or the context is used up. What
    is yielded is settled: a half character, or what may become a stop text, is held back. A seed repeats the text.
    Raises ContextLengthError.
    """
    room = base.entry.context_tokens - len(prompt)
    if room < 1:
        raise ContextLengthError(
            f"The prompt has {len(prompt):,} tokens; the base model can take {base.entry.context_tokens:,}, "
            "including its answer.",
            "Shorten the prompt.",
        )
    budget = min(sampling.max_tokens, room)
    ends = end_tokens(base)
    written: list[int] = []
    for token in _tokens(base, prompt, sampling):
        over = token in ends
        if not over:
            written.append(token)
        text = base.tokenizer.decode(written, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        cut = min((found for stop in sampling.stop if (found := text.find(stop)) >= 0), default=None)
        last = over or cut is not None or len(written) >= budget
        if cut is not None:
            text = text[:cut]
        elif not last:
            text = settled(text, sampling.stop)
        reason = ("stop" if over or cut is not None else "length") if last else None
        yield WrittenText.model_validate(
            {
                "text": text,
                "prompt_tokens": len(prompt),
                "completion_tokens": len(written),
                "finish_reason": reason,
            }
        )
        if last:
            return


def settled(text: str, stops: Sequence[str]) -> str:
    """The part of a text that stays as it is whatever follows: no half character, no beginning of a stop text."""
    text = text.rstrip("\ufffd")
    held = max((size for stop in stops for size in range(1, len(stop)) if text.endswith(stop[:size])), default=0)
    return text[: len(text) - held]


def end_tokens(base: LoadedBase) -> set[int]:
    """The tokens by which the model says that it is done."""
    named = [base.tokenizer.eos_token_id, getattr(base.model.generation_config, "eos_token_id", None)]
    return {token for each in named if each is not None for token in (each if isinstance(each, list) else [each])}


def _tokens(base: LoadedBase, prompt: Sequence[int], sampling: Sampling) -> Iterator[int]:
    """Yield one token after another, without end."""
    generator = torch.Generator()
    if sampling.seed is None:
        generator.seed()
    else:
        generator.manual_seed(sampling.seed)
    cache = fresh_cache(base)
    ids = torch.tensor([list(prompt)], device=base.device)
    while True:
        with torch.inference_mode():
            scores = logits(base, states_after(base, ids, cache)[0, -1]).cpu()
        token = chosen(scores, sampling, generator)
        yield token
        ids = torch.tensor([[token]], device=base.device)


def chosen(scores: Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """Draw a token by its logits (V): from the fewest likeliest ones whose probabilities reach `top_p` together."""
    if sampling.temperature == 0.0:
        return int(scores.argmax())
    probabilities = torch.softmax(scores / sampling.temperature, dim=-1)
    if sampling.top_p < 1.0:
        ordered, order = probabilities.sort(descending=True)
        before = ordered.cumsum(-1) - ordered
        ordered[before >= sampling.top_p] = 0.0  # the likeliest has nothing before it and always stays
        return int(order[torch.multinomial(ordered, 1, generator=generator)])
    return int(torch.multinomial(probabilities, 1, generator=generator))
