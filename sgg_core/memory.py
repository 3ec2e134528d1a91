"""Telling want of memory from other errors."""

from __future__ import annotations

import torch

REMEDY = "Lower optimization.batch_size or task.max_tokens, or choose a smaller base model."


def lacks_memory(error: Exception) -> bool:
    """Whether an allocation failed. On the CPU torch raises a bare RuntimeError that only its text tells apart."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
