"""Files whose bytes lie on S3: stored there, read through a link, and gone with their row."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from openai import OpenAI

from api.app import create_app
from api.settings import ApiSettings
from api.testing import ApiServer, labelled, serving
from sgg_store.errors import ObjectStoreUnavailableError
from sgg_store.objects import file_key
from tests.seaweedfs import SeaweedServer

pytestmark = pytest.mark.s3


@pytest.fixture
def server(tmp_path: Path, sqlite_url: str, s3_url: str) -> Iterator[ApiServer]:
    settings = ApiSettings(data_dir=tmp_path / "data", database_url=sqlite_url, object_store_url=s3_url)
    with serving(settings) as running:
        yield running


def test_content_is_a_redirect_to_a_link_that_needs_no_key(server: ApiServer) -> None:
    content = labelled()
    file_id = server.file_id(content)
    with server.http() as http:
        answer = http.get(f"/v1/files/{file_id}/content")
    assert answer.status_code == 302
    assert httpx.get(answer.headers["location"], trust_env=False).content == content
    with server.http(server.new_key(project_id="proj-other")) as http:
        assert http.get(f"/v1/files/{file_id}/content").status_code == 404


def test_openais_client_follows_the_redirect(server: ApiServer, tmp_path: Path) -> None:
    content = labelled(500)
    file_id = server.file_id(content)
    with OpenAI(base_url=server.base_url, api_key=server.admin_key) as client:
        assert client.files.content(file_id).read() == content
        client.files.content(file_id).write_to_file(tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == content


def test_without_links_the_bytes_come_through_the_api(
    tmp_path: Path, sqlite_url: str, s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SGG_S3_PUBLIC_ENDPOINT", "none")
    settings = ApiSettings(data_dir=tmp_path / "data", database_url=sqlite_url, object_store_url=s3_url)
    with serving(settings) as server, server.http() as http:
        file_id = server.file_id(labelled())
        answer = http.get(f"/v1/files/{file_id}/content")
    assert (answer.status_code, answer.content) == (200, labelled())


def test_deleting_a_file_deletes_its_object_and_a_lost_object_is_named(server: ApiServer) -> None:
    first, second = server.file_id(), server.file_id()
    with server.http() as http:
        assert http.delete(f"/v1/files/{first}").status_code == 200
        assert not server.objects.exists(file_key(first))
        server.objects.delete(file_key(second))
        answer = http.get(f"/v1/files/{second}/content")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "file_content_missing")


def test_a_store_that_goes_down_is_told_as_such_and_a_server_does_not_start_without_one(
    tmp_path: Path, sqlite_url: str, own_s3_server: SeaweedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in own_s3_server.environment.items():
        monkeypatch.setenv(name, value)
    settings = ApiSettings(data_dir=tmp_path / "data", database_url=sqlite_url, object_store_url="s3://sgg")
    with serving(settings) as server:
        own_s3_server.kill()
        answer = server.upload(labelled())
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "object_store_unavailable")
        assert answer.headers["retry-after"]
        with server.http() as http:
            assert http.get("/v1/files").json()["data"] == []
    app = create_app(settings)

    async def start() -> None:
        async with app.router.lifespan_context(app):
            pass

    with pytest.raises(ObjectStoreUnavailableError, match="SGG_S3_ENDPOINT"):
        asyncio.run(start())
