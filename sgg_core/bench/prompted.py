"""Prompt and prefix tuning by peft, on base models whose examples are packed or padded by us.

peft keeps the trained vectors; here they are put before the tokens, with a mask that lets every token see them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sgg_core.backbone import cache_argument


class Prompted(nn.Module):
    """Stands where a base model stands: the same hidden states, of tokens that see `count` trained vectors first."""

    def __init__(self, tuned: Any, model: Any, causal: bool, prefix: bool, count: int) -> None:
        super().__init__()
        self.tuned, self.whole, self.causal, self.prefix, self.count = tuned, model, causal, prefix, count
        self.config = model.config

    @property
    def base_model(self) -> Prompted:
        """Itself: the body of a causal language model is what is called."""
        return self

    def get_output_embeddings(self) -> Any:
        """The base model's output layer."""
        return self.whole.get_output_embeddings()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        **extra: Any,
    ) -> Any:
        """Last hidden states of the tokens themselves."""
        body = self.whole.base_model if self.causal else self.whole
        size = len(input_ids)
        extra["attention_mask"] = self._seen(attention_mask)
        if position_ids is not None:
            extra["position_ids"] = position_ids + self.count
        if self.prefix:
            if token_type_ids is not None:
                extra["token_type_ids"] = token_type_ids
            prompt = {cache_argument(body): self.tuned.get_prompt(batch_size=size)}
            return body(input_ids=input_ids, **prompt, **extra)
        if position_ids is not None:
            first = torch.arange(self.count, device=input_ids.device).expand(size, -1)
            extra["position_ids"] = torch.cat([first, extra["position_ids"]], 1)
        if token_type_ids is not None:
            extra["token_type_ids"] = torch.cat([token_type_ids.new_zeros(size, self.count), token_type_ids], 1)
        vectors = self.tuned.get_prompt(batch_size=size)
        embedded = self.whole.get_input_embeddings()(input_ids)
        found = body(inputs_embeds=torch.cat([vectors.to(embedded.dtype), embedded], 1), **extra)
        found.last_hidden_state = found.last_hidden_state[:, self.count :]
        return found

    def _seen(self, mask: Tensor) -> Tensor:
        """The mask with columns for the trained vectors, and rows as well where they are inputs."""
        if mask.ndim == 2:
            return torch.cat([mask.new_ones(len(mask), self.count), mask], 1)
        rows = mask.shape[2]
        wide = torch.cat([mask.new_ones(*mask.shape[:2], rows, self.count), mask], 3)
        if self.prefix:
            return wide
        own = torch.ones(self.count, self.count, dtype=mask.dtype, device=mask.device).tril()
        first = torch.cat([own.expand(*mask.shape[:2], -1, -1), mask.new_zeros(*mask.shape[:2], self.count, rows)], 3)
        return torch.cat([first, wide], 2)
