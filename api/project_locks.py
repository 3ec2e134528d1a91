"""Taking turns: one at a time of each project, so that what many wait for goes around among the projects."""

from __future__ import annotations

from weakref import WeakValueDictionary

from anyio import Lock


class ProjectLocks:
    """A lock for each project, kept only while somebody holds it or waits for it. Use it in one event loop."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, Lock] = WeakValueDictionary()

    def of(self, project_id: str) -> Lock:
        """Give the project's lock, which lets those who wait for it pass in the order in which they came."""
        return self._locks.setdefault(project_id, Lock())
