import hashlib
import json

import httpx
import pytest

from cli.client import Client
from cli.errors import ApiError, CliError, ServerUnreachableError


def client_of(handler):
    return Client("http://127.0.0.1:1/v1", "sgg_test_key", httpx.MockTransport(handler))


def listing(request):
    """A list of the numbers 1 to 250, paged as the API does it."""
    after = int(request.url.params.get("after", 0))
    last = min(250, after + int(request.url.params["limit"]))
    data = [{"id": str(number)} for number in range(after + 1, last + 1)]
    return httpx.Response(200, json={"object": "list", "data": data, "has_more": last < 250})


@pytest.mark.parametrize("limit", [1, 100, 101, 249, 250, 300, None])
def test_items_come_from_all_pages_once_and_in_order(limit):
    with client_of(listing) as client:
        found = [item["id"] for item in client.items("/files", limit=limit)]
    assert found == [str(number) for number in range(1, min(limit or 250, 250) + 1)]


def test_every_request_carries_the_key():
    def answer(request):
        return httpx.Response(200, json={"key": request.headers["authorization"], "path": request.url.path})

    with client_of(answer) as client:
        assert client.get("/files") == {"key": "Bearer sgg_test_key", "path": "/v1/files"}


def test_the_servers_own_words_are_the_error():
    envelope = {"error": {"message": "No such file. Check the id.", "type": "x", "param": None, "code": "not_found"}}
    with (
        client_of(lambda _: httpx.Response(404, json=envelope)) as client,
        pytest.raises(ApiError, match=r"No such file\. Check the id\.") as caught,
    ):
        client.get("/files/file-0")
    assert (caught.value.status, caught.value.code) == (404, "not_found")


def test_a_refused_key_tells_where_keys_come_from():
    envelope = {"error": {"message": "Unknown key.", "type": "x", "param": None, "code": "invalid_api_key"}}
    with client_of(lambda _: httpx.Response(401, json=envelope)) as client, pytest.raises(ApiError) as caught:
        client.get("/files")
    assert "SGG_API_KEY" in caught.value.remedy


@pytest.mark.parametrize("status", [502, 503, 504])
def test_a_server_that_is_not_ready_counts_as_away(status):
    with client_of(lambda _: httpx.Response(status, text="busy")) as client, pytest.raises(ServerUnreachableError):
        client.get("/files")


@pytest.mark.parametrize("error", [httpx.ConnectError("refused"), httpx.ReadTimeout("late"), httpx.ReadError("reset")])
def test_a_broken_connection_counts_as_away_and_tells_how_to_start(error):
    def fail(request):
        raise error

    with client_of(fail) as client, pytest.raises(ServerUnreachableError, match="sgg serve"):
        client.get("/files")


def test_an_answer_that_is_not_json_points_at_the_address():
    with (
        client_of(lambda _: httpx.Response(200, text="<html>")) as client,
        pytest.raises(CliError, match="SGG_BASE_URL"),
    ):
        client.get("/files")


def test_a_download_is_streamed_to_a_new_file_and_hashed(tmp_path):
    content = bytes(range(256)) * 1000
    with client_of(lambda _: httpx.Response(200, content=content)) as client:
        digest = client.download("/files/file-0/content", tmp_path / "a")
        with pytest.raises(FileExistsError):
            client.download("/files/file-0/content", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == content
    assert digest == hashlib.sha256(content).hexdigest()


def test_an_upload_sends_name_purpose_and_bytes(tmp_path):
    (tmp_path / "train.jsonl").write_bytes(b'{"text": "a"}')

    def answer(request):
        body = request.read()
        return httpx.Response(200, json={part: part.encode() in body for part in ("train.jsonl", "fine-tune", '"a"')})

    with client_of(answer) as client:
        assert all(client.upload(tmp_path / "train.jsonl").values())
        with pytest.raises(CliError, match="Cannot read"):
            client.upload(tmp_path / "absent.jsonl")


def test_a_lost_answer_is_asked_for_again_under_the_same_idempotency_key(monkeypatch):
    monkeypatch.setattr("cli.client.time.sleep", lambda seconds: None)
    seen = []

    def answer(request):
        seen.append((request.headers["idempotency-key"], json.loads(request.read())))
        if len(seen) < 3:
            raise httpx.ReadError("the answer was lost")
        return httpx.Response(200, json={"id": "ftjob-1"})

    with client_of(answer) as client:
        assert client.post("/fine_tuning/jobs", {"a": 1}, idempotency_key="k") == {"id": "ftjob-1"}
    assert seen == [("k", {"a": 1})] * 3


def test_without_an_idempotency_key_a_request_is_sent_once():
    seen = []

    def answer(request):
        seen.append(request)
        raise httpx.ReadError("the answer was lost")

    with client_of(answer) as client, pytest.raises(ServerUnreachableError):
        client.post("/fine_tuning/jobs/ftjob-1/cancel")
    assert len(seen) == 1


def test_the_key_is_read_from_the_data_directory(monkeypatch, tmp_path):
    monkeypatch.delenv("SGG_API_KEY", raising=False)
    monkeypatch.setenv("SGG_DATA_DIR", str(tmp_path))
    with pytest.raises(CliError, match="sgg serve"):
        Client.from_environment()
    (tmp_path / "admin-key").write_text("sgg_from_file\n")
    with Client.from_environment() as client:
        assert client._http.headers["authorization"] == "Bearer sgg_from_file"


def test_an_address_without_a_scheme_is_refused(monkeypatch):
    monkeypatch.setenv("SGG_BASE_URL", "localhost:8000")
    with pytest.raises(CliError, match="SGG_BASE_URL"):
        Client.from_environment()


def test_reading_follows_where_a_server_leads_and_writing_does_not():
    """A client that follows sends a POST on as GET, without its body: nothing would be made, and nothing said."""
    seen = []

    def answer(request):
        seen.append((request.method, request.url.scheme))
        if request.url.scheme == "http":
            return httpx.Response(301, headers={"location": str(request.url.copy_with(scheme="https"))})
        return httpx.Response(200, json={"object": "list", "data": []})

    with client_of(answer) as client:
        assert client.get("/files") == {"object": "list", "data": []}
        for act in (lambda: client.post("/fine_tuning/jobs", {"model": "m"}), lambda: client.delete("/files/file-1")):
            with pytest.raises(CliError, match=r"redirects to https://127\.0\.0\.1:1/v1/"):
                act()
    assert seen == [("GET", "http"), ("GET", "https"), ("POST", "http"), ("DELETE", "http")]


@pytest.mark.parametrize(
    "environment",
    [{"SGG_BASE_URL": "http://host:abc/v1"}, {"SGG_BASE_URL": "http://host/v1", "ALL_PROXY": "gopher://proxy:1"}],
)
def test_an_address_that_is_none_is_named(environment, monkeypatch):
    for name, value in {"SGG_API_KEY": "sgg_key", **environment}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(CliError, match="cannot be reached") as caught:
        Client.from_environment()
    assert "SGG_BASE_URL" in str(caught.value) and "ALL_PROXY" in caught.value.remedy
