"""One object a line, with the ids that are bound, whoever writes; readable on a terminal; safe before `configure`."""

import io
import json
import logging
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.contextvars import bound_contextvars

from sgg_store import logs

SECRET = "Xq7-_vE2mN0bT4rW8yZ1"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def restored() -> Iterator[None]:
    """The process's logging as it was."""
    root, hooks = logging.getLogger(), (sys.excepthook, threading.excepthook)
    handlers, level = root.handlers[:], root.level
    quiet = {name: logging.getLogger(name).level for name in logs.QUIET}
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, old in quiet.items():
        logging.getLogger(name).setLevel(old)
    logging.captureWarnings(False)
    sys.excepthook, threading.excepthook = hooks


@pytest.fixture
def lines(restored: None) -> Any:
    stream = io.StringIO()
    logs.configure("tester", logs.LogSettings(log_level="debug"), stream)
    return lambda: [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_one_object_with_event_fields_and_origin(lines: Any) -> None:
    logs.get_logger("some.module").warning("it\nhappened", step=3, filename="a b.jsonl", args=["x"])
    [line] = lines()
    assert (line["event"], line["level"], line["logger"]) == ("it\nhappened", "warning", "some.module")
    assert (line["step"], line["filename"], line["args"], line["process"]) == (3, "a b.jsonl", ["x"], "tester")
    assert line["timestamp"].endswith("Z") and line["pid"] > 0


def test_bound_ids_are_in_our_lines_and_in_those_of_libraries(lines: Any) -> None:
    with bound_contextvars(request_id="req_1", job_id="ftjob-1", attempt=2):
        logs.get_logger("ours").info("one")
        logging.getLogger("theirs").info("two of %s", "them")
    logs.get_logger("ours").info("three")
    one, two, three = lines()
    for line in (one, two):
        assert (line["request_id"], line["job_id"], line["attempt"]) == ("req_1", "ftjob-1", 2)
    assert two["event"] == "two of them"
    assert "job_id" not in three


def test_an_exception_is_text_in_its_line_without_its_secrets(lines: Any) -> None:
    try:
        raise ConnectionError(f"no answer from redis://:{SECRET}@host")
    except ConnectionError:
        logs.get_logger("ours").exception("broken", url=f"redis://:{SECRET}@host", headers={"authorization": SECRET})
    [line] = lines()
    assert "ConnectionError: no answer from redis://:***@host" in line["exception"]
    assert SECRET not in json.dumps(line)


def test_an_error_that_ends_a_thread_is_in_the_log(lines: Any) -> None:
    thread = threading.Thread(target=lambda: 1 / 0)
    thread.start()
    thread.join()
    [line] = lines()
    assert line["level"] == "critical" and "ZeroDivisionError" in line["exception"]


def test_a_terminal_gets_readable_lines_with_the_same_content(restored: None) -> None:
    stream = Terminal()
    logs.configure("tester", logs.LogSettings(), stream)
    logs.get_logger("ours").info("hello there", key=f"sgg_ab_{SECRET}", step=4)
    [line] = stream.getvalue().splitlines()
    assert "hello there" in line and "sgg_ab_***" in line and SECRET not in line
    with pytest.raises(ValueError):
        json.loads(line)


def test_the_format_can_be_chosen_and_lesser_levels_are_left_out(restored: None) -> None:
    stream = Terminal()
    logs.configure("tester", logs.LogSettings(log_format="json", log_level="warning"), stream)
    logs.get_logger("ours").info("no")
    logging.getLogger("celery.worker").info("no")
    logs.get_logger("ours").warning("yes")
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["yes"]


@pytest.mark.parametrize("line", ["plain words", "{", "[]", "null", '{"level": "info"}', '{"event": 1}', ""])
def test_what_is_no_line_of_a_log_is_passed_on_as_words(line: str) -> None:
    assert logs.parsed_line(line) == (logging.INFO, line, {})


def test_a_line_of_a_child_keeps_its_level_and_fields(lines: Any) -> None:
    with bound_contextvars(job_id="ftjob-1"):
        logs.get_logger("child").error("it broke", step=3)
    [written] = lines()
    assert logs.parsed_line(json.dumps(written)) == (
        logging.ERROR, "it broke", {"job_id": "ftjob-1", "step": 3, "said_by": "child"},
    )  # fmt: skip


def test_a_process_without_configuration_writes_warnings_alone_and_to_standard_error() -> None:
    script = "from sgg_store.logs import get_logger; log = get_logger('x'); log.info('no'); log.warning('yes', step=1)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr.strip()) == ("", "yes")


def test_every_module_that_logs_takes_its_logger_here() -> None:
    root = Path(__file__).parents[3]
    sources = [path for package in ("api", "worker", "cli", "sgg_store") for path in root.glob(f"{package}/**/*.py")]
    others = [path.name for path in sources if re.search(r"logging\.getLogger|structlog\.get_logger", path.read_text())]
    assert others == ["logs.py"]
