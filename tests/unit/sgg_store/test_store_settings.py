"""Where things lie by default, and how the environment changes it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from sqlalchemy import create_engine, make_url

from cli.settings_problems import problems_of
from sgg_store.addresses import checked_database_url
from sgg_store.database import Database
from sgg_store.settings import S3Settings, StoreSettings


def test_addresses_follow_from_the_data_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SGG_DATA_DIR", str(tmp_path))
    settings = StoreSettings()
    assert settings.data_dir == tmp_path
    assert settings.database_url == f"sqlite:///{tmp_path}/sgg.sqlite3"
    assert settings.object_store_url == str(tmp_path / "objects")
    assert settings.broker_url == "memory://"


def test_the_home_directory_and_relative_paths_are_made_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SGG_DATA_DIR", raising=False)
    assert StoreSettings().data_dir == tmp_path / ".local" / "share" / "sgg"
    monkeypatch.chdir(tmp_path)
    assert StoreSettings(data_dir=Path("here")).data_dir == tmp_path / "here"


def test_given_addresses_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SGG_DATABASE_URL", "postgresql+psycopg://db/sgg")
    monkeypatch.setenv("SGG_OBJECT_STORE_URL", "/srv/objects")
    settings = StoreSettings()
    assert settings.database_url == "postgresql+psycopg://db/sgg"
    assert settings.object_store_url == "/srv/objects"


@given(st.text("ab1:/@[]?#%", max_size=12))
def test_what_is_taken_for_an_address_is_one(rest: str) -> None:
    for scheme in ("postgres", "sqlite"):
        try:
            url = checked_database_url(f"{scheme}://{rest}")
        except ValueError:
            continue
        create_engine(url).dispose()


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_postgres_is_reached_with_the_driver_that_is_installed(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SGG_DATABASE_URL", f"{scheme}://sgg:p%40w@db:5432/sgg?sslmode=require")
    url = StoreSettings().database_url
    assert url == "postgresql+psycopg://sgg:p%40w@db:5432/sgg?sslmode=require"
    Database(url).dispose()


def test_several_hosts_of_postgres_are_written_as_the_driver_takes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SGG_DATABASE_URL", "postgresql://sgg:Pa55word@one:5432,two:5433/sgg")
    with pytest.raises(ValidationError) as refused:
        StoreSettings()
    [problem] = problems_of(refused.value)
    assert "several hosts as postgresql+psycopg://user:password@/db?host=one:5432&host=two:5432" in problem
    assert "Pa55word" not in problem
    written = "postgresql+psycopg://sgg:secret@/sgg?host=one:5432&host=two:5433"
    monkeypatch.setenv("SGG_DATABASE_URL", written)
    dialect = create_engine(StoreSettings().database_url).dialect
    _, options = dialect.create_connect_args(make_url(written))
    assert (options["host"], options["port"]) == ("one,two", "5432,5433")


@pytest.mark.parametrize("scheme", ["POSTGRES", "SQLite"])
def test_the_case_of_a_scheme_does_not_matter(scheme: str, tmp_path: Path) -> None:
    Database(checked_database_url(f"{scheme}:///{tmp_path}/db")).dispose()


def test_a_file_of_sqlite_is_left_as_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SGG_DATABASE_URL", f"sqlite:///{tmp_path}/other.sqlite3")
    assert StoreSettings().database_url == f"sqlite:///{tmp_path}/other.sqlite3"


@pytest.mark.parametrize(
    "url",
    [
        "foo", "mysql://sgg:Pa55word@db/sgg", "postgresql+asyncpg://sgg:Pa55word@db/sgg", "postgres://db:Pa55word/sgg",
        "sgg:Pa55word@db/sgg", "sqlite://", "sqlite://srv/db", "sqlite:///:memory:",
    ],
)  # fmt: skip
def test_another_database_is_refused_with_how_to_write_one_and_without_its_password(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SGG_DATABASE_URL", url)
    with pytest.raises(ValidationError) as refused:
        StoreSettings()
    [problem] = problems_of(refused.value)
    assert problem.startswith("SGG_DATABASE_URL: ") and "Pa55word" not in problem
    assert "Write it as postgresql+psycopg://user:password@host/db or sqlite:////path" in problem
    assert "Pa55word" not in str(refused.value)


BROKERS = ["memory://", "redis://db", "redis://:p%40w@[::1]:6379", "rediss://db:6379/3?ssl_cert_reqs=required"]


@pytest.mark.parametrize("url", BROKERS)
def test_redis_is_a_broker_and_so_is_the_process_s_memory(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SGG_BROKER_URL", url)
    assert StoreSettings().broker_url == url


@pytest.mark.parametrize(
    "url",
    [
        "bar", "redis//127.0.0.1", "amqp://u:Pa55word@db", "redis://:Pa55word@db/notadb", "redis://:Pa55word@db:99999/0",
        "redis://:Pa55word/@db/0", "redis://[::1/0", "redis+socket:///run/redis.sock", "sentinel://db:26379",
        "redis://:Pa55word@one:6379;redis://two:6379",
    ],
)  # fmt: skip
def test_another_broker_is_refused_with_how_to_write_one(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SGG_BROKER_URL", url)
    with pytest.raises(ValidationError) as refused:
        StoreSettings()
    [problem] = problems_of(refused.value)
    assert problem.startswith("SGG_BROKER_URL: ") and "Write it as redis://" in problem
    assert "Pa55word" not in problem + str(refused.value)


def test_endpoints_of_s3_are_addresses_of_http(monkeypatch: pytest.MonkeyPatch) -> None:
    for url in ("http://seaweedfs:8333", "https://s3.example.org/", "http://[::1]:8333", "http://my_s3"):
        monkeypatch.setenv("SGG_S3_ENDPOINT", url)
        monkeypatch.setenv("SGG_S3_PUBLIC_ENDPOINT", url)
        assert (S3Settings().endpoint, S3Settings().public_endpoint) == (url, url)
    monkeypatch.setenv("SGG_S3_PUBLIC_ENDPOINT", "none")
    assert S3Settings().public_endpoint == "none"


@pytest.mark.parametrize(
    "url", ["nonsense", "none", "seaweedfs:8333", "http://", "http://a b", "http://a%b", "http://a:x"]
)
def test_other_endpoints_are_refused_each_by_its_name(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SGG_S3_ENDPOINT", url)
    monkeypatch.setenv("SGG_S3_PUBLIC_ENDPOINT", "none://")
    with pytest.raises(ValidationError) as refused:
        S3Settings()
    names = [problem.split(": ")[0] for problem in problems_of(refused.value)]
    assert names == ["SGG_S3_ENDPOINT", "SGG_S3_PUBLIC_ENDPOINT"]
    assert all("Write it as http://host:8333 or https://host" in problem for problem in problems_of(refused.value))


def test_a_worker_fences_itself_before_its_lease_ends() -> None:
    settings = StoreSettings()
    assert (settings.heartbeat_seconds, settings.self_fence_seconds, settings.lease_seconds) == (15.0, 40.0, 60.0)
    short = StoreSettings(lease_seconds=1)
    assert short.heartbeat_seconds < short.self_fence_seconds < short.lease_seconds
    with pytest.raises(ValueError, match="two workers could run one job"):
        StoreSettings(lease_seconds=30, self_fence_seconds=40)


def test_a_lease_is_long_enough_to_be_renewed_in() -> None:
    with pytest.raises(ValidationError, match="lease_seconds"):
        StoreSettings(lease_seconds=0.9)
