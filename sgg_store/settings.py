"""Where the store keeps its things, from the environment (`SGG_...`) with defaults for one machine without servers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from sgg_store.addresses import checked_broker_url, checked_database_url, checked_endpoint, checked_public_endpoint
from sgg_store.quota_limits import QuotaLimits

Seconds = Annotated[float, Field(gt=0, le=3600)]
Quota = Annotated[int, Field(ge=0, le=2**53)] | None
Lifetime = Annotated[float, Field(gt=0, allow_inf_nan=False)] | None


class StoreSettings(BaseSettings):
    """Settings of everything that outlives a process."""

    model_config = SettingsConfigDict(
        env_prefix="SGG_",
        env_ignore_empty=True,
        frozen=True,
        extra="ignore",
        use_attribute_docstrings=True,
        hide_input_in_errors=True,  # which may be an address with a password
    )

    data_dir: Annotated[Path, AfterValidator(lambda path: path.expanduser().absolute())] = Path("~/.local/share/sgg")
    """Directory of the embedded service: keys, SQLite file, objects, scratch space."""
    catalogue_dir: Path = Field(default_factory=lambda values: values["data_dir"])
    """Directory of `base-models.json`, the added base models; by default the data directory."""
    database_url: Annotated[str, AfterValidator(checked_database_url)] = Field(
        default_factory=lambda values: f"sqlite:///{values['data_dir'] / 'sgg.sqlite3'}"
    )
    """SQLAlchemy address; by default `sgg.sqlite3` in the data directory."""
    broker_url: Annotated[str, AfterValidator(checked_broker_url)] = "memory://"
    """The broker, a Redis server; `memory://` works within one process."""
    object_store_url: str = Field(default_factory=lambda values: str(values["data_dir"] / "objects"))
    """Where objects lie: a directory, or `s3://bucket/prefix`; by default `objects` in the data directory."""
    lease_seconds: Annotated[float, Field(ge=1, le=3600)] = 60.0
    """How long an attempt owns its job without a heartbeat."""
    heartbeat_seconds: Seconds = Field(default_factory=lambda values: values["lease_seconds"] / 4)
    """How often a worker renews its lease; by default four times in a lease."""
    self_fence_seconds: Seconds = Field(default_factory=lambda values: values["lease_seconds"] * 2 / 3)
    """A worker without contact to the database for this long stops its trainer; by default two thirds of a lease."""
    metrics_port: Annotated[int, Field(ge=0, le=65535)] | None = None
    """Where Prometheus can ask for metrics, without a key; by default nowhere."""
    metrics_host: str = "127.0.0.1"
    """Address of this machine that the metrics' port is on."""
    max_running_jobs: Quota = 100
    """How many jobs of one project may run at once. Of this and the next three, a project may have its own value."""
    max_queued_jobs: Quota = 10_000
    """How many jobs of one project may wait at once."""
    max_stored_bytes: Quota = 100 * 2**30
    """How many bytes of files one project may keep: uploads and results."""
    max_trainer_seconds_per_day: Quota = None
    """How many seconds of training one project may use in a day that begins at midnight UTC; none by default."""

    checkpoint_ttl_seconds: Lifetime = None
    """How long the checkpoints of a job that has ended are kept; by default until the job is deleted."""
    result_ttl_seconds: Lifetime = None
    """How long the result files of a job are kept; by default until they or the job are deleted."""
    garbage_grace_seconds: Annotated[float, Field(ge=3600, allow_inf_nan=False)] = 86_400.0
    """Objects that no row names are deleted when they are older than this; uploads must be faster."""
    clean_seconds: Annotated[float, Field(gt=0, le=31_536_000)] = 3600.0
    """How often some worker removes what has outlived its time, and garbage."""

    @property
    def quotas(self) -> QuotaLimits:
        """The quotas of a project that has none of its own."""
        return QuotaLimits(
            running_jobs=self.max_running_jobs,
            queued_jobs=self.max_queued_jobs,
            stored_bytes=self.max_stored_bytes,
            trainer_seconds_per_day=self.max_trainer_seconds_per_day,
        )

    reap_seconds: Seconds = 5.0
    """How often every API process and worker looks for attempts whose lease ran out."""

    @property
    def broker_is_embedded(self) -> bool:
        """Whether doorbells ring within one process only."""
        return self.broker_url.startswith("memory:")

    @property
    def database_is_embedded(self) -> bool:
        """Whether the database is the SQLite file in the data directory."""
        return self.database_url == f"sqlite:///{self.data_dir / 'sgg.sqlite3'}"

    @model_validator(mode="after")
    def _fence_before_the_lease_ends(self) -> Self:
        if not self.heartbeat_seconds < self.self_fence_seconds < self.lease_seconds:
            raise ValueError(
                "SGG_HEARTBEAT_SECONDS < SGG_SELF_FENCE_SECONDS < SGG_LEASE_SECONDS must hold, or two workers could "
                "run one job. Leave the first two out to derive them from the lease."
            )
        return self


class S3Settings(BaseSettings):
    """How to reach the S3 store that `SGG_OBJECT_STORE_URL` names."""

    model_config = SettingsConfigDict(
        env_prefix="SGG_S3_", env_ignore_empty=True, frozen=True, extra="ignore", use_attribute_docstrings=True
    )

    endpoint: Annotated[str, AfterValidator(checked_endpoint)] | None = None
    """Address of the server, such as `http://seaweedfs:8333`; by default that of the region at AWS."""
    public_endpoint: Annotated[str, AfterValidator(checked_public_endpoint)] | None = None
    """Address under which clients reach the same server, for download links; by default the endpoint. `none` gives no
    links: downloads go through the API."""
    region: str = "us-east-1"
    """Region of the bucket; servers of one's own take any."""
    access_key_id: str | None = None
    """Name of the access key; by default what the AWS environment or the machine's role gives."""
    secret_access_key: SecretStr | None = None
    """Secret of the access key."""
    path_style: bool = True
    """Whether the bucket stands in the path of an address (true) or in its host name (false)."""
    link_seconds: Annotated[int, Field(ge=1, le=604_800)] = 900
    """How long a download link can be used to begin a download."""
