"""Texts one after another in one row, each seen by itself alone: an encoder's passes without padding.

Linear layers, norms and activations do not care where a text begins. Attention does, and is transformers' to replace:
here it takes the texts of one length together, as views of the row, so that nothing is padded there either. Each text
gets the states (up to rounding) that it would get alone, forward and backward.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

ATTENTION = "sgg_texts_in_rows"  # its name among transformers' kinds of attention

# Encoders whose layers hand on what they do not know themselves, and in which a text's place matters by its position
# ids alone: no distances between tokens, no windows. Those of RoBERTa's family begin to count after the padding's id.
FROM_ZERO = {"AlbertModel", "BertModel", "DistilBertModel", "ElectraModel"}
AFTER_PADDING = {"CamembertModel", "RobertaModel", "XLMRobertaModel"}


@dataclass(frozen=True)
class Texts:
    """Lengths of the texts that each row (R, T) holds, in order; what follows them in a row is nobody's."""

    lengths: tuple[tuple[int, ...], ...]

    def blocks(self, width: int) -> list[tuple[int, int]]:
        """All R x width tokens as (texts, length) of neighbours of like length; a length of 0 stands for nobody's."""
        found: list[tuple[int, int]] = []
        for row in self.lengths:
            found += [(len(list(alike)), length) for length, alike in groupby(row)]
            if (left := width - sum(row)) > 0:
                found.append((left, 0))
        return found


def first_position(model: Any) -> int | None:
    """Position id of a text's first token; None for a model whose texts have to be rows of their own.

    So they have to be in a model that `let_share_rows` has not seen: it would not know where a text begins.
    """
    return _first_position(model) if model.config._attn_implementation == ATTENTION else None


def _first_position(model: Any) -> int | None:
    kind = type(model).__name__
    if getattr(model.config, "is_decoder", False):
        return None
    if kind in FROM_ZERO:
        return 0
    return int(model.config.pad_token_id) + 1 if kind in AFTER_PADDING else None


def let_share_rows(model: Any) -> None:
    """Give a model that can have several texts in a row the attention for it; without `texts` it does as before."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    if _first_position(model) is not None:
        AttentionInterface.register(ATTENTION, _attention)
        AttentionMaskInterface.register(ATTENTION, sdpa_mask)
        model.set_attn_implementation(ATTENTION)


def laid_out(rows: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """(1, T): the rows one after another."""
    return torch.tensor([[token for row in rows for token in row]], device=device)


def _attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, texts: Texts | None = None, **more: Any
) -> tuple[Tensor, None]:
    """(R, T, H, d) of queries, keys and values (R, H, T, d), as transformers asks for it."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if texts is None:
        return sdpa_attention_forward(module, query, key, value, mask, **more)  # type: ignore[no-any-return]
    rows, heads, width, size = query.shape
    blocks = texts.blocks(width)
    sizes = [count * max(length, 1) for count, length in blocks]
    flat = [torch.split(each.transpose(1, 2).reshape(-1, heads, size), sizes) for each in (query, key, value)]
    parts = []
    for (count, length), *qkv in zip(blocks, *flat, strict=True):
        if not length:
            parts.append(torch.zeros_like(qkv[0]))
            continue
        q, k, v = (part.view(count, length, heads, size).transpose(1, 2) for part in qkv)
        seen = functional.scaled_dot_product_attention(q, k, v, dropout_p=more["dropout"], scale=more["scaling"])
        parts.append(seen.transpose(1, 2).reshape(-1, heads, size))
    return torch.cat(parts).view(rows, width, heads, size), None
