"""Which run a checkpoint belongs to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict

from sgg_core.spec import TrainingSpec


class RunIdentity(BaseModel):
    """What a run's weights follow from: its spec, and the sha256 of everything it reads.

    The spec is kept as it is, not as a hash: settings that a later release adds have their defaults in the specs that
    were written before, so that a run which began under the old release goes on under the new one. What a run is
    computed on is no part of it: it may go on elsewhere.
    """

    model_config = ConfigDict(frozen=True)

    spec: TrainingSpec
    base_model: str
    training: str
    validation: str | None
    sources: tuple[str, ...]
    start: str | None
    retention: str | None

    def differences(self, other: RunIdentity) -> list[str]:
        """The dotted names of what differs, without the leading `spec.`."""
        apart = {"spec": {"resources"}}
        one, another = self.model_dump(exclude=apart), other.model_dump(exclude=apart)
        return [name.removeprefix("spec.") for name in _differing(one, another, "")]


def _differing(one: dict[str, Any], other: dict[str, Any], prefix: str) -> Iterator[str]:
    for name, value in one.items():
        if isinstance(value, dict) and isinstance(other[name], dict):
            yield from _differing(value, other[name], f"{prefix}{name}.")
        elif value != other[name]:
            yield f"{prefix}{name}"
