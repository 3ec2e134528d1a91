"""Importing much at once, without looking for garbage among what stays."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_collector() -> Iterator[None]:
    """A block of imports during which the garbage collector rests: modules are for good, and to look at all of them
    again and again makes a third of the seconds that torch and its company take."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
