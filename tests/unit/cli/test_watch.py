import json

import httpx
import pytest

from cli import watch
from cli.client import Client
from cli.errors import ApiError, CliError, ServerUnreachableError
from cli.watch import Watcher, watch_job


def event(number, **metrics):
    kind = "metrics" if metrics else "message"
    return {"id": f"ftevent-{number}", "type": kind, "message": f"event {number}", "data": metrics}


class Server:
    """Plays a job's life: at each look at the job one more chapter (status, new events) has happened.

    A chapter that is a number is an answer with that status instead.
    """

    def __init__(self, *chapters):
        self.chapters = list(chapters)
        self.events = []
        self.status = "queued"

    def __call__(self, request):
        if request.url.path.endswith("/events"):
            newest_first = self.events[::-1]
            ids = [one["id"] for one in newest_first]
            start = ids.index(request.url.params["after"]) + 1 if "after" in request.url.params else 0
            page = newest_first[start : start + 2]
            return httpx.Response(200, json={"data": page, "has_more": start + 2 < len(ids)})
        if self.chapters:
            chapter = self.chapters.pop(0)
            if isinstance(chapter, int):
                return httpx.Response(chapter, json={"error": {"message": "Away.", "code": None}})
            self.status, new = chapter
            self.events += new
        return httpx.Response(200, json={"id": "ftjob-1", "status": self.status})


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    naps = []
    monkeypatch.setattr(watch.time, "sleep", naps.append)
    return naps


def client_of(server):
    return Client("http://127.0.0.1:1/v1", "key", httpx.MockTransport(server))


LIFE = (
    ("queued", [event(1)]),
    ("running", [event(2), event(3), event(4, step=1, total_steps=2, train_loss=0.9)]),
    ("running", []),
    ("succeeded", [event(5, step=2, total_steps=2, train_loss=0.4), event(6)]),
)


def test_each_event_is_seen_once_and_in_order():
    server = Server(*LIFE)
    with client_of(server) as client:
        watcher = Watcher(client, "ftjob-1")
        seen = [one["id"] for _ in LIFE for one in watcher.poll()[1]]
    assert seen == [f"ftevent-{number}" for number in range(1, 7)]


@pytest.mark.parametrize(("outcome", "code"), [("succeeded", 0), ("failed", 1), ("cancelled", 3), ("paused", 4)])
def test_the_exit_code_tells_the_outcome(outcome, code):
    with client_of(Server(("running", []), (outcome, []))) as client:
        assert watch_job(client, "ftjob-1", as_json=False) == code


def test_lines_show_messages_and_figures(capsys):
    with client_of(Server(*LIFE)) as client:
        watch_job(client, "ftjob-1", as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("event")] == ["event 1", "event 2", "event 3", "event 6"]
    assert any("step 1/2  loss 0.900" in line for line in lines)
    assert lines[-1].startswith("succeeded: step 2/2  loss 0.400")


def test_the_number_of_steps_is_shown_as_soon_as_it_is_known(capsys):
    begun = event(2) | {"data": {"first_step": 1, "total_steps": 9}}
    with client_of(Server(("running", [event(1), begun]), ("cancelled", []))) as client:
        watch_job(client, "ftjob-1", as_json=False)
    assert "running: step 0/9" in capsys.readouterr().out


def test_json_output_is_the_events_one_a_line(capsys):
    with client_of(Server(*LIFE)) as client:
        watch_job(client, "ftjob-1", as_json=True)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["id"] for line in lines] == [f"ftevent-{number}" for number in range(1, 7)]


def test_a_server_that_goes_away_is_asked_again_ever_more_slowly_and_nothing_is_lost(capsys, no_waiting):
    away = [503] * 7
    with client_of(Server(*LIFE[:2], *away, *LIFE[2:])) as client:
        assert watch_job(client, "ftjob-1", as_json=True) == 0
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 6
    assert captured.err.count("Trying again") == 1 and captured.err.endswith("The server is back.\n")
    pauses = no_waiting[2:9]
    assert pauses == sorted(pauses) and pauses[0] < pauses[-1] == watch.LONGEST_BACK_OFF


def test_a_server_that_stays_away_is_given_up(monkeypatch):
    hours = iter(range(0, 36_000, 600))
    monkeypatch.setattr(watch.time, "monotonic", lambda: float(next(hours)))
    with client_of(Server(*[503] * 50)) as client, pytest.raises(ServerUnreachableError):
        watch_job(client, "ftjob-1", as_json=True)


def test_a_refusal_ends_the_watching_at_once(no_waiting):
    with client_of(Server(404)) as client, pytest.raises(ApiError):
        watch_job(client, "ftjob-1", as_json=False)
    assert no_waiting == []


def test_ctrl_c_says_that_the_job_goes_on(monkeypatch, capsys):
    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(watch.time, "sleep", interrupt)
    with client_of(Server(("running", []))) as client:
        assert watch_job(client, "ftjob-1", as_json=False) == 130
    told = capsys.readouterr().err
    assert "goes on" in told
    assert "sgg jobs cancel ftjob-1" in told
    with client_of(Server(("running", []))) as client, pytest.raises(CliError, match="goes on") as caught:
        watch_job(client, "ftjob-1", as_json=True)
    assert caught.value.exit_code == 130 and "sgg jobs watch ftjob-1 --json" in caught.value.remedy
