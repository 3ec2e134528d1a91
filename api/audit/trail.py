"""What the audit log is told of one request, from its arrival to its answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.orm import Session
from starlette.types import Scope

from api.validation import whole
from sgg_store.audit import AuditEntry, AuditLog, Outcome

READING = frozenset({"GET", "HEAD", "OPTIONS"})
"""The verbs that change nothing."""

LONGEST_TARGET = 300
"""Characters. Ids are shorter; what a stranger puts in their place may be as long as a request line."""

_PAST = {"cancel": "cancelled"}


@dataclass(slots=True)
class Trail:
    """One request as the audit log sees it. Who calls becomes known on the way.

    Whoever changes something writes the trail in the same transaction; what nobody wrote, the middleware writes with
    the answer.
    """

    scope: Scope
    project_id: str | None = None
    key_id: str | None = None
    target: str | None = None
    """Id of what the call is about; otherwise it is what its path names last."""
    changes_nothing: bool = False
    """Whether success is no news: the call asks for something, though its verb is one of those that change things."""
    written: bool = field(default=False, init=False)

    @property
    def is_settled(self) -> bool:
        """Whether nothing is left to write if the call succeeds."""
        return self.written or self.changes_nothing

    def write(self, session: Session, target: str | None = None, **details: Any) -> None:
        """Say that the call changed `target`, in the transaction that does it. `details` hold no secrets."""
        AuditLog(session).add(self.entry("succeeded", 200, target=target, details=details))
        self.written = True

    def entry(self, outcome: Outcome, status: int, **values: Any) -> AuditEntry:
        """Make an entry about the request."""
        named = next(reversed(self.scope.get("path_params", {}).values()), None)
        target = values.get("target") or self.target or named
        values["target"] = target and whole(str(target)[:LONGEST_TARGET])
        return AuditEntry(
            action=action_of(self.scope["endpoint"].__name__),
            outcome=outcome,
            status=status,
            request_id=self.scope["state"]["request_id"],
            client_address=self.scope["client"][0] if self.scope.get("client") else None,
            project_id=self.project_id,
            key_id=self.key_id,
            **values,
        )


def action_of(endpoint: str) -> str:
    """Name what an endpoint does as the audit log does: `create_job` is `job.created`."""
    verb, _, noun = endpoint.partition("_")
    return f"{noun}.{_PAST.get(verb, verb + ('d' if verb.endswith('e') else 'ed'))}"
