"""What `sgg jobs submit` leaves on the server, and what it finds there."""

import hashlib
import json

import httpx
import pytest

REFUSAL = {"error": {"message": "The learning rate is too high.", "code": "invalid_value", "param": None, "type": "x"}}
DRY = {
    "object": "fine_tuning.job.dry_run", "valid": True, "data": None, "estimate": None, "hyperparameters": None,
    "queue": {"position": None, "starts_in_seconds": None}, "smallest_difference": None, "findings": [],
}  # fmt: skip
JOB = {"object": "fine_tuning.job", "id": "ftjob-1", "status": "queued"}


class Server:
    """Keeps files, and answers a submission as it was told to."""

    def __init__(self, answer=None, **files):
        self.answer = httpx.Response(200, json=JOB) if answer is None else answer
        self.files = {}
        for name, content in files.items():
            self.add(f"{name}.jsonl", content.encode())
        self.submitted = []
        self.may_list = True

    def add(self, name, content, expires_at=None):
        found = {"sha256": hashlib.sha256(content).hexdigest()}
        file = {"id": f"file-{len(self.files)}", "filename": name, "expires_at": expires_at, "sgg": found}
        self.files[file["id"]] = file
        return file

    def __call__(self, request):
        path, body = request.url.path.removeprefix("/v1"), request.read()
        if request.method == "GET":
            if not self.may_list:
                return httpx.Response(403, json={"error": {"message": "No.", "code": "forbidden"}})
            assert request.url.params["purpose"] == "fine-tune"
            return httpx.Response(200, json={"data": [*self.files.values()][::-1], "has_more": False})
        if request.method == "DELETE":
            return httpx.Response(200, json={"id": self.files.pop(path.rpartition("/")[2])["id"]})
        if path == "/files":
            head, _, rest = body.partition(b'filename="')[2].partition(b"\r\n\r\n")
            return httpx.Response(200, json=self.add(head.partition(b'"')[0].decode(), rest.partition(b"\r\n--")[0]))
        self.submitted.append(json.loads(body))
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


@pytest.fixture
def submit(sgg_to, tmp_path):
    (tmp_path / "train.jsonl").write_text("train")
    (tmp_path / "valid.jsonl").write_text("valid")
    files = ("--train", tmp_path / "train.jsonl", "--validation", tmp_path / "valid.jsonl")
    return lambda server, *more: sgg_to(server)("jobs", "submit", "-m", "tiny", *files, *more)


def test_a_submitted_job_keeps_its_files(submit):
    server = Server()
    assert submit(server).exit_code == 0
    assert len(server.files) == 2
    assert [server.submitted[0][name] for name in ("training_file", "validation_file")] == ["file-0", "file-1"]


def test_a_dry_run_leaves_nothing_behind(submit):
    server = Server(httpx.Response(200, json=DRY))
    assert submit(server, "--dry-run").exit_code == 0
    assert server.submitted and server.files == {}


def test_a_refused_job_leaves_nothing_behind(submit, tmp_path):
    server = Server(httpx.Response(400, json=REFUSAL))
    result = submit(server)
    assert result.exit_code == 1 and "learning rate" in result.stderr
    assert server.submitted and server.files == {}
    (tmp_path / "valid.jsonl").unlink()
    assert submit(server).exit_code == 1  # the training file is uploaded, the other one is not there
    assert server.files == {}


def test_a_refused_job_of_a_file_leaves_nothing_behind(sgg_to, submit, tmp_path):
    (tmp_path / "job.yaml").write_text("model: tiny\ntraining_file: train.jsonl\nvalidation_file: valid.jsonl\n")
    server = Server(httpx.Response(400, json=REFUSAL))
    assert sgg_to(server)("jobs", "submit", "--spec", tmp_path / "job.yaml").exit_code == 1
    assert server.submitted and server.files == {}


def test_where_the_answer_is_lost_the_files_stay_since_the_job_may_be_there(submit, monkeypatch):
    monkeypatch.setattr("cli.client.time.sleep", lambda seconds: None)
    server = Server(httpx.ReadError("the answer was lost"))
    assert submit(server).exit_code == 1
    assert len(server.files) == 2


@pytest.mark.parametrize("ending", [httpx.ReadError("the answer was lost"), KeyboardInterrupt()])
def test_an_unanswered_dry_run_leaves_nothing_behind(submit, ending, monkeypatch):
    monkeypatch.setattr("cli.client.time.sleep", lambda seconds: None)
    server = Server(ending)
    assert submit(server, "--dry-run").exit_code != 0
    assert server.submitted and server.files == {}


@pytest.mark.parametrize(
    "answer", [httpx.Response(400, json=REFUSAL), httpx.Response(200, json=JOB)], ids=("no", "yes")
)
def test_a_copy_that_is_there_is_used_and_stays(submit, answer):
    server = Server(answer, train="train", valid="valid")
    submit(server)
    assert list(server.files) == ["file-0", "file-1"]
    assert [server.submitted[0][name] for name in ("training_file", "validation_file")] == ["file-0", "file-1"]


def test_a_file_of_other_bytes_or_another_name_or_one_that_expires_is_no_copy(submit):
    server = Server(train="other", elsewhere="train")
    server.add("train.jsonl", b"train", expires_at=2_000_000_000)
    assert submit(server).exit_code == 0
    assert server.submitted[0]["training_file"] == "file-3"


def test_a_file_named_twice_is_uploaded_once(sgg_to, submit, tmp_path):
    server, path = Server(), tmp_path / "train.jsonl"
    sgg_to(server)("jobs", "submit", "-m", "tiny", "--train", path, "--retention", path)
    assert list(server.files) == ["file-0"]


def test_a_key_that_may_not_list_files_submits_all_the_same(submit):
    server = Server(train="train")
    server.may_list = False
    assert submit(server).exit_code == 0
    assert server.submitted[0]["training_file"] == "file-1"


def test_an_upload_that_cannot_be_deleted_is_told(submit):
    class Keeping(Server):
        def __call__(self, request):
            if request.method == "DELETE":
                return httpx.Response(409, json={"error": {"message": "A job needs it.", "code": "in_use"}})
            return super().__call__(request)

    result = submit(Keeping(httpx.Response(400, json=REFUSAL)))
    assert "file-0 (train.jsonl) stays on the server: A job needs it." in result.stderr
    assert "error: The learning rate is too high." in result.stderr
