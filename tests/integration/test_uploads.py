"""Uploads in parts, and files that expire."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session

from api.settings import ApiSettings
from api.testing import ApiServer, jsonl, labelled, serving
from sgg_store.cleaning import Cleaner
from sgg_store.database import Database
from sgg_store.errors import TooManyPartsError, TooManyUploadsError, UploadSizeError
from sgg_store.keys import DEFAULT_PROJECT_ID, ensure_project
from sgg_store.quota_limits import QuotaLimits
from sgg_store.quotas import Quotas
from sgg_store.records import FileRecord, UploadPartRecord, UploadRecord, database_now
from sgg_store.uploads import MOST_PENDING, SPARE, Uploads

CONTENT = labelled(40)


@pytest.fixture
def client(api_server: ApiServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=api_server.base_url, api_key=api_server.admin_key, _strict_response_validation=True
    ) as opened:
        yield opened


def begin(client: openai.OpenAI, content: bytes = CONTENT, **more: Any) -> str:
    return client.uploads.create(
        bytes=len(content), filename="t.jsonl", mime_type="text/jsonl", purpose="fine-tune", **more
    ).id


def send(client: openai.OpenAI, upload_id: str, *pieces: bytes) -> list[str]:
    return [client.uploads.parts.create(upload_id, data=piece).id for piece in pieces]


def parts_stored(server: ApiServer) -> list[str]:
    return [found.key for found in server.objects.list("uploads")]


def refused(caught: pytest.ExceptionInfo[openai.BadRequestError]) -> tuple[str | None, str | None]:
    return caught.value.code, caught.value.param


@pytest.mark.parametrize("part_size", [200, 10_000])
def test_openais_helper_uploads_in_parts(
    client: openai.OpenAI, api_server: ApiServer, tmp_path: Path, part_size: int
) -> None:
    path = tmp_path / "train.jsonl"
    path.write_bytes(CONTENT)
    upload = client.uploads.upload_file_chunked(
        file=path,
        mime_type="text/jsonl",
        purpose="fine-tune",
        part_size=part_size,
        md5=hashlib.md5(CONTENT).hexdigest(),
    )
    assert upload.status == "completed" and upload.file is not None
    assert client.files.content(upload.file.id).read() == CONTENT
    assert client.files.retrieve(upload.file.id) == upload.file
    assert parts_stored(api_server) == []


def test_parts_are_put_together_in_the_order_of_their_naming(client: openai.OpenAI) -> None:
    upload_id = begin(client)
    third, first, spare, second = send(client, upload_id, CONTENT[500:], CONTENT[:100], b"sent twice", CONTENT[100:500])
    done = client.uploads.complete(upload_id, part_ids=[first, second, third])
    assert done.file is not None and client.files.content(done.file.id).read() == CONTENT
    again = client.uploads.complete(upload_id, part_ids=[first, second, third])  # its answer was lost
    assert again.file == done.file and spare


def test_what_does_not_make_the_announced_file_is_refused_and_can_be_mended(client: openai.OpenAI) -> None:
    upload_id = begin(client)
    first, second = send(client, upload_id, CONTENT[:100], CONTENT[100:])
    for arguments, code, param in (
        ({"part_ids": [first]}, "upload_size_mismatch", "part_ids"),
        ({"part_ids": [first, first]}, "invalid_value", "part_ids"),
        ({"part_ids": [first, second], "md5": "0" * 32}, "upload_checksum_mismatch", "md5"),
        ({"part_ids": [first, second], "md5": "x"}, "invalid_value", "md5"),
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            client.uploads.complete(upload_id, **arguments)  # type: ignore[arg-type]
        assert refused(caught) == (code, param)
    with pytest.raises(openai.NotFoundError):
        client.uploads.complete(upload_id, part_ids=["part_none"])
    with pytest.raises(openai.BadRequestError) as caught:
        send(client, upload_id, CONTENT + b" ")
    assert refused(caught) == ("upload_size_mismatch", "data")
    assert client.uploads.complete(upload_id, part_ids=[first, second]).status == "completed"


def test_a_bad_file_is_refused_line_by_line_however_it_came(client: openai.OpenAI) -> None:
    content = jsonl({"text": "a", "label": "b"}, {"text": 1, "label": "b"})
    upload_id = begin(client, content)
    parts = send(client, upload_id, content[:20], content[20:])
    with pytest.raises(openai.BadRequestError) as caught:
        client.uploads.complete(upload_id, part_ids=parts)
    assert refused(caught) == ("invalid_file", "file") and "line 2" in caught.value.message


def test_a_cancelled_or_expired_upload_takes_nothing_and_leaves_nothing(
    client: openai.OpenAI, api_server: ApiServer
) -> None:
    cancelled, expired = begin(client), begin(client)
    send(client, cancelled, CONTENT)
    parts = send(client, expired, CONTENT)
    assert client.uploads.cancel(cancelled).status == "cancelled"
    with api_server.database.begin() as session:
        session.execute(update(UploadRecord).values(expires_at=database_now() - 1))
    for upload_id in (cancelled, expired):
        for action in (
            lambda upload_id: send(client, upload_id, CONTENT),
            lambda upload_id: client.uploads.complete(upload_id, part_ids=parts),
            lambda upload_id: client.uploads.cancel(upload_id),
        ):
            with pytest.raises(openai.BadRequestError) as caught:
                action(upload_id)
            assert caught.value.code == "invalid_upload_status"
    settings = api_server.settings.model_copy(update={"garbage_grace_seconds": 0.001})
    Cleaner(api_server.database, api_server.objects, settings).run()
    assert parts_stored(api_server) == []
    with api_server.database.read() as session:
        assert session.query(UploadPartRecord).count() == 0


def test_bounds_are_told_before_anything_is_sent(client: openai.OpenAI, api_server: ApiServer) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        client.uploads.create(bytes=512 * 2**20 + 1, filename="t", mime_type="text/jsonl", purpose="fine-tune")
    assert (caught.value.status_code, caught.value.code) == (413, "request_too_large")
    assert f"{api_server.settings.max_upload_bytes:,}" in caught.value.message
    for _ in range(MOST_PENDING):
        begin(client)
    with pytest.raises(openai.BadRequestError) as too_many:
        begin(client)
    assert too_many.value.code == "too_many_uploads"
    with pytest.raises(openai.BadRequestError) as wrong:
        client.uploads.create(bytes=1, filename="t", mime_type="text/jsonl", purpose="vision")
    assert wrong.value.param == "purpose"


def test_an_upload_has_a_bounded_number_of_parts_and_is_good_for_a_file_with_all_of_them(
    client: openai.OpenAI, api_server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sgg_store.uploads.MOST_PARTS", 3)
    upload_id = begin(client)
    parts = send(client, upload_id, CONTENT[:1], CONTENT[1:2], CONTENT[2:])
    with pytest.raises(openai.BadRequestError) as caught:
        send(client, upload_id, b"x")
    assert refused(caught) == ("too_many_upload_parts", "data") and "larger parts" in caught.value.message
    assert len(parts_stored(api_server)) == 3
    assert client.uploads.complete(upload_id, part_ids=parts).status == "completed"


def test_parts_that_come_at_once_are_counted_one_after_the_other(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sgg_store.uploads.MOST_PARTS", 3)
    with database.begin() as session:
        ensure_project(session, DEFAULT_PROJECT_ID)
        upload_id = Uploads(session).create(DEFAULT_PROJECT_ID, "t.jsonl", "fine-tune", 100, None).id

    def add_part(number: int) -> bool:
        try:
            with database.begin() as session:
                Uploads(session).add_part(DEFAULT_PROJECT_ID, upload_id, f"part_{number}", 1)
        except TooManyPartsError:
            return False
        return True

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(add_part, range(8))) == 3


@pytest.fixture
def pending(database: Database) -> str:
    """The last upload, of 10 bytes, for which its project has a place."""
    with database.begin() as session:
        ensure_project(session)
        return [create(session) for _ in range(MOST_PENDING)][-1]


def create(session: Session, project_id: str = DEFAULT_PROJECT_ID) -> str:
    return Uploads(session).create(project_id, "t.jsonl", "fine-tune", 10, None).id


def expire_all(session: Session) -> None:
    session.execute(update(UploadRecord).values(expires_at=database_now() - 1))


def test_places_of_uploads_are_their_projects_own_and_free_when_they_expire(database: Database, pending: str) -> None:
    with database.begin() as session:
        ensure_project(session, "proj-other")
        create(session, "proj-other")
        with pytest.raises(TooManyUploadsError):
            create(session)
        expire_all(session)
        create(session)


def test_parts_fill_an_upload_as_often_as_they_may_be_sent_and_no_further(database: Database, pending: str) -> None:
    with database.begin() as session:
        add = Uploads(session).add_part
        with pytest.raises(UploadSizeError):
            add(DEFAULT_PROJECT_ID, pending, "part_large", 11)
        for number in range(SPARE):
            add(DEFAULT_PROJECT_ID, pending, f"part_{number}", 10)
        with pytest.raises(UploadSizeError):
            add(DEFAULT_PROJECT_ID, pending, "part_more", 1)


def test_bytes_of_parts_are_counted_for_their_project_alone_and_while_they_wait(
    database: Database, pending: str
) -> None:
    def used(project_id: str) -> float:
        return Quotas(session, QuotaLimits()).used(project_id, "stored_bytes")

    with database.begin() as session:
        ensure_project(session, "proj-other")
        Uploads(session).add_part(DEFAULT_PROJECT_ID, pending, "part_1", 10)
        assert (used(DEFAULT_PROJECT_ID), used("proj-other")) == (10, 0)
        expire_all(session)
        assert used(DEFAULT_PROJECT_ID) == 0


def test_an_upload_that_the_quota_has_no_room_for_is_not_begun(client: openai.OpenAI, api_server: ApiServer) -> None:
    with api_server.http() as http:
        quotas = {"sgg": {"quotas": {"stored_bytes": len(CONTENT) - 1}}}
        assert http.post("/v1/organization/projects/proj-default", json=quotas).status_code == 200
    with pytest.raises(openai.APIStatusError) as full:
        begin(client.with_options(max_retries=0))
    assert (full.value.status_code, full.value.code) == (429, "insufficient_quota")
    begin(client, CONTENT[1:])


def test_parts_of_uploads_count_as_stored_bytes_until_they_are_a_file_or_nothing(
    client: openai.OpenAI, api_server: ApiServer
) -> None:
    content = labelled()

    def set_quota(stored_bytes: int) -> None:
        with api_server.http() as http:
            quotas = {"sgg": {"quotas": {"stored_bytes": stored_bytes}}}
            assert http.post("/v1/organization/projects/proj-default", json=quotas).status_code == 200

    def begun() -> openai.types.Upload:
        return client.uploads.create(
            bytes=len(content), filename="train.jsonl", mime_type="text/jsonl", purpose="fine-tune"
        )

    set_quota(len(content))
    first, second = begun(), begun()
    part = client.uploads.parts.create(first.id, data=content)
    with pytest.raises(openai.APIStatusError) as full:
        client.uploads.parts.create(second.id, data=content)
    assert (full.value.status_code, full.value.code) == (429, "insufficient_quota")
    assert len(parts_stored(api_server)) == 1
    client.uploads.complete(first.id, part_ids=[part.id])  # its bytes are not counted twice
    set_quota(2 * len(content))
    client.uploads.parts.create(second.id, data=content)
    client.uploads.cancel(second.id)
    assert api_server.upload(content).status_code == 200


@pytest.mark.parametrize("in_parts", [False, True])
def test_an_expired_file_is_as_good_as_deleted_and_then_is(
    client: openai.OpenAI, api_server: ApiServer, in_parts: bool
) -> None:
    expiry: Any = {"anchor": "created_at", "seconds": 3600}
    if in_parts:
        upload_id = begin(client, expires_after=expiry)
        upload = client.uploads.complete(upload_id, part_ids=send(client, upload_id, CONTENT))
        assert upload.file is not None
        file = upload.file
    else:
        file = client.files.create(file=("t.jsonl", CONTENT), purpose="fine-tune", expires_after=expiry)
    assert file.expires_at is not None and abs(file.expires_at - file.created_at - 3600) <= 1
    used = api_server.job_id(training_file=file.id)
    with api_server.database.begin() as session:
        session.execute(update(FileRecord).values(expires_at=database_now() - 1))
    for ask in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(openai.NotFoundError):
            ask(file.id)
    assert list(client.files.list()) == []
    with pytest.raises(openai.BadRequestError) as caught:
        client.fine_tuning.jobs.create(model="smollm2-135m-instruct", training_file=file.id)
    assert caught.value.code == "file_not_found"
    settings = api_server.settings.model_copy(update={"garbage_grace_seconds": 0.001})
    cleaner = Cleaner(api_server.database, api_server.objects, settings)
    cleaner.run()
    assert api_server.claim(used) is not None  # a job that has it goes on
    with api_server.http() as http:
        http.post(f"/v1/fine_tuning/jobs/{used}/cancel")
    assert len(list(api_server.objects.list("files"))) == 1


@pytest.mark.parametrize(
    "expiry",
    [
        {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3599"},
        {"expires_after[anchor]": "created_at", "expires_after[seconds]": "2592001"},
        {"expires_after[anchor]": "now", "expires_after[seconds]": "3600"},
        {"expires_after[seconds]": "3600"},
        {"expires_after": "3600"},
    ],
)
def test_an_expiry_out_of_bounds_is_refused(api_server: ApiServer, expiry: dict[str, str]) -> None:
    with api_server.http() as http:
        answer = http.post(
            "/v1/files", data={"purpose": "fine-tune"} | expiry, files={"file": ("t.jsonl", io.BytesIO(CONTENT))}
        )
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "expires_after")


@pytest.mark.parametrize("body", [{}, {"files": {"data": ("upload", b"")}}, {"data": {"data": "no file"}}])
def test_a_part_without_bytes_is_refused(api_server: ApiServer, client: openai.OpenAI, body: dict[str, Any]) -> None:
    upload_id = begin(client)
    with api_server.http() as http:
        answer: httpx.Response = http.post(f"/v1/uploads/{upload_id}/parts", **body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "data")


@pytest.mark.parametrize("database", ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def test_completions_and_parts_that_come_at_once_get_in_nobodys_way(
    api_settings: ApiSettings, request: pytest.FixtureRequest, database: str
) -> None:
    url = request.getfixturevalue(f"{database}_url")
    with (
        serving(api_settings.model_copy(update={"database_url": url})) as server,
        openai.OpenAI(base_url=server.base_url, api_key=server.admin_key, max_retries=0) as client,
        ThreadPoolExecutor(8) as threads,
    ):
        upload_id = begin(client)
        part_ids = send(client, upload_id, CONTENT[:50], CONTENT[50:])

        def add_part() -> str:
            try:
                return client.uploads.parts.create(upload_id, data=CONTENT[:50]).id
            except openai.BadRequestError as error:  # it is completed, or has enough
                return str(error.code)

        adding = [threads.submit(add_part) for _ in range(4)]
        completing = [threads.submit(client.uploads.complete, upload_id, part_ids=part_ids) for _ in range(4)]
        added = [each.result() for each in adding]
        done = [each.result() for each in completing]
    assert all(each.startswith(("part_", "invalid_upload_status", "upload_size")) for each in added), added
    assert len({each.file.id for each in done if each.file is not None}) == 1 and len(done) == 4


@pytest.mark.postgres
def test_uploads_on_postgres(api_settings: ApiSettings, postgres_url: str) -> None:
    with (
        serving(api_settings.model_copy(update={"database_url": postgres_url})) as server,
        openai.OpenAI(base_url=server.base_url, api_key=server.admin_key) as client,
    ):
        upload_id = begin(client)
        done = client.uploads.complete(upload_id, part_ids=send(client, upload_id, CONTENT[:50], CONTENT[50:]))
        assert done.file is not None and client.files.content(done.file.id).read() == CONTENT
