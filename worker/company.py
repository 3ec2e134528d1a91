"""Which jobs a worker may train at the same time: those that can share their passes through one base model."""

from __future__ import annotations

import threading
from types import TracebackType

from sgg_core.spec import TrainingSpec
from sgg_store.turns import Applicant

Key = tuple[object, ...]


def shared_key(applicant: Applicant) -> Key | None:
    """What jobs must have in common to be trained together; None for one that has to be alone.

    See `sgg_core.packed.train.check_together`. A job whose trainer has died is alone from then on, so that it takes no
    other with it a second time.
    """
    spec = TrainingSpec.model_validate(applicant.spec)
    exact = spec.method == "sgg" and spec.guidance.variant == "exact"
    if applicant.crashed or exact or spec.lora.dropout > 0:
        return None
    targets = spec.lora.targets
    return (applicant.base_model, targets if isinstance(targets, str) else tuple(sorted(targets)))


class Company:
    """The jobs that a worker trains now, at most `most`. One that is in may be joined by its like only."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._members: list[Member] = []
        self.door = threading.Lock()
        """To be held from the choice of a job until it has entered."""

    def suits(self, applicant: Applicant) -> bool:
        """Whether the job may come in now."""
        if not self._members:
            return True
        key = shared_key(applicant)
        return key is not None and key == self._members[0].key and len(self._members) < self._most

    def enter(self, applicant: Applicant) -> Member:
        """Let a job in that suits."""
        member = Member(self, None if self._most == 1 else shared_key(applicant), applicant.crashed)
        self._members.append(member)
        return member

    def leave(self, member: Member) -> None:
        """Make room."""
        with self.door:
            self._members.remove(member)


class Member:
    """A job that has entered. It leaves at the end of the `with` block that it is the context of."""

    def __init__(self, company: Company, key: Key | None, crashed: bool) -> None:
        self._company = company
        self.key = key
        self.crashed = crashed  # see Applicant

    @property
    def shared(self) -> bool:
        """Whether others may join it."""
        return self.key is not None

    def __enter__(self) -> Member:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._company.leave(self)
