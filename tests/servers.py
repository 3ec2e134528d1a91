"""Servers of a test's own, on free ports of 127.0.0.1, which it may kill, empty and start again: Postgres and Redis."""

from __future__ import annotations

import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import redis

PATIENCE = 60.0


def postgres_program(name: str) -> str | None:
    """Path of one of Postgres' own programs, which Debian keeps outside of PATH; None without Postgres."""
    versions = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(versions[-1]) if versions else shutil.which(name)


def redis_program() -> str | None:
    """Path of a server that speaks Redis' protocol; None without one."""
    return shutil.which("redis-server") or shutil.which("valkey-server")


def free_port() -> int:
    """A port that nobody listens on now, and that no connection is given meanwhile: Linux takes those from 32768 on."""
    while True:
        port = random.SystemRandom().randrange(15_000, 32_000)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


class PostgresServer:
    """Postgres with a cluster of its own. It keeps its data and its port over `stop`, `kill` and `start`."""

    def __init__(self) -> None:
        self.port = free_port()
        self.directory = Path(tempfile.mkdtemp(prefix="sgg-postgres-"))
        self._user = "postgres" if os.getuid() == 0 else None  # Postgres refuses to run as root
        if self._user:
            account = pwd.getpwnam(self._user)
            os.chown(self.directory, account.pw_uid, account.pw_gid)
        self._process: subprocess.Popen[bytes] | None = None
        self._run([_needed("initdb"), "-D", str(self._data), "-U", "sgg", "--auth=trust", "--no-sync", "-E", "UTF8"])

    @property
    def running(self) -> bool:
        """Whether it was started and not ended since."""
        return self._process is not None

    @property
    def url(self) -> str:
        """What SGG_DATABASE_URL is set to, without the database's name."""
        return f"postgresql+psycopg://sgg@127.0.0.1:{self.port}"

    @property
    def _data(self) -> Path:
        return self.directory / "data"

    def start(self) -> None:
        """Start the server and wait until it takes connections."""
        assert self._process is None
        command = [_needed("postgres"), "-D", str(self._data), "-p", str(self.port), "-k", str(self.directory)]
        with (self.directory / "log").open("ab") as log:
            options = ["-c", "listen_addresses=127.0.0.1", "-c", "max_connections=200"]
            options += ["-c", "fsync=off"]  # what it wrote is the kernel's, which outlives its death
            self._process = subprocess.Popen([*command, *options], stdout=log, stderr=log, user=self._user)
        deadline = time.monotonic() + PATIENCE
        while not self._answers():
            assert self._process.poll() is None and time.monotonic() < deadline, (self.directory / "log").read_text()
            time.sleep(0.05)

    def create_database(self, name: str) -> str:
        """Make an empty database; gives its address."""
        with psycopg.connect(f"postgresql://sgg@127.0.0.1:{self.port}/postgres", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return f"{self.url}/{name}"

    @contextmanager
    def refusing_writes(self) -> Iterator[None]:
        """A block in which it takes no writes, as a provider's does while its disk is nearly full."""
        self._set_read_only("on")
        try:
            yield
        finally:
            self._set_read_only("off")

    def _set_read_only(self, value: str) -> None:
        with psycopg.connect(f"postgresql://sgg@127.0.0.1:{self.port}/postgres", autocommit=True) as connection:
            connection.execute(f"ALTER SYSTEM SET default_transaction_read_only = {value}".encode())
            connection.execute("SELECT pg_reload_conf()")

    def stop(self) -> None:
        """End the server and everyone's connections as an administrator's restart does; nothing if it is down."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """End the server as a power cut would; does nothing if it is down."""
        self._end(signal.SIGQUIT)

    def close(self) -> None:
        """End the server for good and remove its data."""
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(PATIENCE)
            self._process = None

    def _answers(self) -> bool:
        try:
            address = f"postgresql://sgg@127.0.0.1:{self.port}/postgres"
            with psycopg.connect(address, connect_timeout=2):
                return True
        except psycopg.OperationalError:
            return False

    def _run(self, command: Sequence[str]) -> None:
        done = subprocess.run(command, capture_output=True, text=True, user=self._user, check=False)
        assert done.returncode == 0, done.stderr


class RedisServer:
    """Redis without persistence: `kill` empties it. It keeps its port over `kill` and `start`."""

    def __init__(self) -> None:
        self.port = free_port()
        self._directory = Path(tempfile.mkdtemp(prefix="sgg-redis-"))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        """Whether it was started and not ended since."""
        return self._process is not None

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """What SGG_BROKER_URL is set to, without the database's number."""
        return f"redis://{self.address}"

    def client(self, number: int) -> redis.Redis:
        """A connection to one of its databases; close it after use."""
        return redis.Redis(port=self.port, db=number, socket_connect_timeout=2)

    def start(self) -> None:
        """Start the server and wait until it answers."""
        assert self._process is None
        program = redis_program()
        assert program is not None
        command = [program, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        command += ["--dir", str(self._directory), "--databases", "64"]
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + PATIENCE
        while not self._answers():
            assert self._process.poll() is None and time.monotonic() < deadline, (self._directory / "log").read_text()
            time.sleep(0.02)

    def kill(self) -> None:
        """End the server, and with it all that it held; does nothing if it is down."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(PATIENCE)
            self._process = None

    def freeze(self) -> None:
        """Stop the server without ending it: connections stay open, and nothing answers until `thaw`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen server go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """End the server for good."""
        self.kill()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _answers(self) -> bool:
        try:
            with self.client(0) as client:
                return bool(client.ping())
        except redis.ConnectionError:
            return False


def _needed(name: str) -> str:
    program = postgres_program(name)
    assert program is not None, f"{name} is not installed"
    return program
