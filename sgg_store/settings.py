"""Where the store keeps its things, from the environment (`SGG_...`) with defaults for one machine without servers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

Seconds = Annotated[float, Field(gt=0, le=3600)]


class StoreSettings(BaseSettings):
    """Settings of everything that outlives a process."""

    model_config = SettingsConfigDict(
        env_prefix="SGG_", env_ignore_empty=True, frozen=True, extra="ignore", use_attribute_docstrings=True
    )

    data_dir: Annotated[Path, AfterValidator(lambda path: path.expanduser().absolute())] = Path("~/.local/share/sgg")
    """Directory of the embedded service: keys, SQLite file, objects, scratch space."""
    database_url: str = Field(default_factory=lambda values: f"sqlite:///{values['data_dir'] / 'sgg.sqlite3'}")
    """SQLAlchemy address; by default `sgg.sqlite3` in the data directory."""
    broker_url: str = "memory://"
    """Celery's broker; `memory://` works within one process."""
    object_store_url: str = Field(default_factory=lambda values: str(values["data_dir"] / "objects"))
    """Where objects lie; by default `objects` in the data directory."""
    lease_seconds: Seconds = 60.0
    """How long an attempt owns its job without a heartbeat."""
    heartbeat_seconds: Seconds = Field(default_factory=lambda values: values["lease_seconds"] / 4)
    """How often a worker renews its lease; by default four times in a lease."""
    self_fence_seconds: Seconds = Field(default_factory=lambda values: values["lease_seconds"] * 2 / 3)
    """A worker without contact to the database for this long stops its trainer; by default two thirds of a lease."""

    @model_validator(mode="after")
    def _fence_before_the_lease_ends(self) -> Self:
        if not self.heartbeat_seconds < self.self_fence_seconds < self.lease_seconds:
            raise ValueError(
                "SGG_HEARTBEAT_SECONDS < SGG_SELF_FENCE_SECONDS < SGG_LEASE_SECONDS must hold, or two workers could "
                "run one job. Leave the first two out to derive them from the lease."
            )
        return self
