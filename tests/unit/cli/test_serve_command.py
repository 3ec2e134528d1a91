"""What `sgg serve` refuses before it touches anything, and the socket it listens on."""

import os
import resource
import socket
import subprocess
import sys

from cli.serve import MOST_OPEN_FILES, _allow_many_connections, _greet, _listen


def test_a_server_without_a_worker_needs_a_broker(tmp_path):
    settings = os.environ | {"SGG_DATA_DIR": str(tmp_path / "data"), "SGG_BROKER_URL": ""}
    command = [sys.executable, "-m", "cli.main", "serve", "--no-worker", "--port", "0"]
    done = subprocess.run(command, env=settings, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "SGG_BROKER_URL" in done.stderr and "--no-worker" in done.stderr
    assert not (tmp_path / "data" / "sgg.sqlite3").exists()


def test_answers_do_not_wait_until_the_client_has_acknowledged_their_beginning():
    with _listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_server_may_open_as_many_files_as_the_system_lets_it():
    before = soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_OPEN_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, most // 2), hard))
    try:
        _allow_many_connections()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (most, hard)
        _allow_many_connections()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (most, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_only_a_link_that_signs_in_is_called_one(capsys):
    facts = {"url": "http://host:8000/v1", "data_dir": "/data", "admin_key_file": "/data/admin-key"}
    _greet({**facts, "dashboard": "http://host:8000/#sign-in=token"})
    assert "this link signs in once" in capsys.readouterr().out
    _greet({**facts, "dashboard": "http://host:8000/"})
    told = capsys.readouterr().out
    assert "sign in with an API key" in told and "this link" not in told
