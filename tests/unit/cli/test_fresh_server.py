"""The server that measurements start for themselves."""

import time
from pathlib import Path

from cli.client import Client
from cli.fresh_server import FreshServer


def test_a_server_that_does_not_answer_is_not_ready(tmp_path: Path) -> None:
    with Client("http://127.0.0.1:1/v1", "key") as client:
        assert not FreshServer(time.time(), client, tmp_path / "log").is_ready()
