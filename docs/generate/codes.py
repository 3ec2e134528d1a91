"""The codes of errors as sections with an address each, from the tables that the API itself uses."""

from __future__ import annotations

from api.error_codes import REFUSALS
from api.jobs.failures import FAILURES


def refusals() -> str:
    """Describe the codes of refused requests."""
    return "\n".join(
        f"### `{one.code}`: {one.status} {{ #{one.code} }}\n\n{one.cause}\n\n**What to do:** {one.remedy}\n"
        for one in REFUSALS
    )


def job_failures() -> str:
    """Describe the codes of failed jobs."""
    return "\n".join(
        f"### `{code}` {{ #failed-{code} }}\n\n{one.cause}\n\n**What to do:** {one.remedy}\n"
        for code, one in FAILURES.items()
    )
