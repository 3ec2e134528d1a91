"""What a check found out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Finding:
    """One sentence about one part. A `note` is good to know and needs no action; a `problem` has a remedy."""

    part: str
    status: Literal["ok", "note", "problem"]
    message: str
    remedy: str = ""


Check = Callable[[], Iterator[Finding]]


def findings_of(part: str, check: Check) -> Iterator[Finding]:
    """All findings of a check; whatever it raises becomes a problem, so that the next check is still made."""
    from sgg_core.errors import SggError
    from sgg_store.errors import StoreError

    try:
        yield from check()
    except (SggError, StoreError) as error:
        yield Finding(part, "problem", error.message, error.remedy)
    except Exception as error:
        message = f"The check itself failed: {type(error).__name__}: {error}."
        yield Finding(part, "problem", message, "If the other findings do not explain it, report this as a defect.")
