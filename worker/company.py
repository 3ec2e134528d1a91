"""Which jobs a worker may train at the same time: those that can share their passes through one base model."""

from __future__ import annotations

import threading
from types import TracebackType

from sgg_core.reporting import MemoryNeed
from sgg_core.spec import TrainingSpec
from sgg_store.turns import Applicant
from worker.capacity import Capacity

Key = tuple[object, ...]


def shared_key(applicant: Applicant) -> Key | None:
    """What jobs must have in common to be trained together; None for one that has to be alone.

    See `sgg_core.packed.train.check_together`. A job whose trainer has died is alone from then on, so that it takes no
    other with it a second time.
    """
    spec = TrainingSpec.model_validate(applicant.spec)
    if applicant.crashed or spec.lonely is not None:
        return None
    targets = spec.lora.targets
    return (applicant.base_model, targets if isinstance(targets, str) else tuple(sorted(targets)))


class Company:
    """The jobs that a worker trains now, at most `most`.

    One that is in may be joined by its like only, and as long as memory is expected to suffice.
    """

    def __init__(self, most: int, capacity: Capacity) -> None:
        self._most = most
        self._capacity = capacity
        self._members: list[Member] = []
        self._apart: set[str] = set()  # base models whose jobs cannot share passes, as the trainer has told
        self.door = threading.Lock()
        """To be held from the choice of a job until it has entered."""
        self._counting = threading.Lock()

    def suits(self, applicant: Applicant) -> bool:
        """Whether the job may come in now."""
        if not self._members:
            return True
        key = self._key(applicant)
        if key is None or key != self._members[0].key or len(self._members) >= self._most:
            return False
        with self._counting:
            inside = [member.counted or member.expected for member in self._members]
            return self._capacity.fits(applicant.base_model, inside, applicant.need)

    def enter(self, applicant: Applicant) -> Member:
        """Let a job in that suits."""
        member = Member(self, applicant, self._key(applicant))
        with self._counting:
            self._members.append(member)
        return member

    def keep_apart(self, base_model: str) -> None:
        """Let jobs on a base model come in one after another from now on."""
        self._apart.add(base_model)

    def room(self, member: Member) -> int:
        """Bytes that are left for a member beside the others, base models included."""
        with self._counting:
            others = [each.counted or each.expected for each in self._members if each is not member]
            return self._capacity.room(member.base_model) - sum(need.own for need in others if need is not None)

    def leave(self, member: Member) -> None:
        """Make room."""
        with self.door, self._counting:
            self._members.remove(member)
            if not self._members:
                self._capacity.end(member.base_model)

    def weigh(self, member: Member, need: MemoryNeed) -> None:
        """Put what a member's trainer counted in the place of what was expected of it."""
        with self._counting:
            member.counted = need
            self._capacity.expect([each.counted for each in self._members])

    def measure(self, peak: int, gpu_total: int | None, beside: int) -> None:
        """Take note of what the trainer took so far."""
        with self._counting:
            self._capacity.measure(peak, gpu_total, beside)

    def _key(self, applicant: Applicant) -> Key | None:
        return None if self._most == 1 or applicant.base_model in self._apart else shared_key(applicant)


class Member:
    """A job that has entered. It leaves at the end of the `with` block that it is the context of."""

    def __init__(self, company: Company, applicant: Applicant, key: Key | None) -> None:
        self._company = company
        self.key = key
        self.crashed = applicant.crashed
        self.base_model = applicant.base_model
        self.expected = applicant.need
        self.counted: MemoryNeed | None = None  # by its trainer, when it is about to take its first step

    @property
    def room(self) -> int:
        """Bytes that it may take. One whose trainer has died trains as little at once as it can."""
        return 0 if self.crashed else self._company.room(self)

    @property
    def shared(self) -> bool:
        """Whether others may join it."""
        return self.key is not None

    def keep_apart(self) -> None:
        """Tell that its base model mixes the rows of a batch."""
        self._company.keep_apart(self.base_model)

    def weigh(self, need: MemoryNeed) -> None:
        """Tell what the trainer counted that this job needs."""
        self._company.weigh(self, need)

    def measure(self, peak: int, gpu_total: int | None, beside: int = 0) -> None:
        """Tell the most that the trainer took since the first of its present jobs began, and its GPU's memory.

        Other base models have taken `beside` of it.
        """
        self._company.measure(peak, gpu_total, beside)

    def __enter__(self) -> Member:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._company.leave(self)
