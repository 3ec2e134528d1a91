"""docker-compose.yml without Docker: read as Compose reads it, and its services as processes of this machine.

What a container has and a process of this machine has not is replaced in one place, `Stack._localized`.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psycopg
import yaml

from tests.seaweedfs import weed_program
from tests.servers import free_port, postgres_program, redis_program

ROOT = Path(__file__).parents[1]
PATIENCE = 90.0
SGG = f"{sys.executable} -m cli.main"
_VARIABLE = re.compile(r"\$(?:(\$)|\{(\w+)(?::([-?])([^}]*))?\})")


class ComposeError(Exception):
    """A variable that must be set is not."""


def interpolated(value: Any, variables: Mapping[str, str]) -> Any:
    """Fill in `${NAME}`, `${NAME:-default}` and `${NAME:?message}` as Compose does, and make `$` of `$$`."""
    if isinstance(value, dict):
        return {key: interpolated(item, variables) for key, item in value.items()}
    if isinstance(value, list):
        return [interpolated(item, variables) for item in value]
    if not isinstance(value, str):
        return value

    def fill(found: re.Match[str]) -> str:
        escaped, name, operator, operand = found.groups()
        if escaped:
            return "$"
        if not variables.get(name) and operator == "?":
            raise ComposeError(f"{name}: {operand}")
        return variables.get(name) or (operand if operator == "-" else "")

    return _VARIABLE.sub(fill, value)


def composition(variables: Mapping[str, str]) -> dict[str, Any]:
    """The services of docker-compose.yml with these variables."""
    content = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return dict(interpolated(content, variables)["services"])


def make_env(directory: Path) -> dict[str, str]:
    """Run docker/make-env for a directory; gives the variables that it wrote."""
    subprocess.run([ROOT / "docker" / "make-env", directory], check=True, capture_output=True)
    lines = (directory / ".env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if not line.startswith("#"))


def image_environment() -> dict[str, str]:
    """The variables that docker/Dockerfile sets for api and workers."""
    text = (ROOT / "docker" / "Dockerfile").read_text().partition(" AS run\n")[2].replace("\\\n", " ")
    [line] = [line for line in text.splitlines() if line.startswith("ENV ")]
    return {name: value for name, value in (pair.split("=", 1) for pair in line.split()[1:]) if name != "PATH"}


class Stack:
    """The services' own commands and environments as processes; `start` waits until their health checks pass."""

    def __init__(self, home: Path, variables: Mapping[str, str]) -> None:
        self.home = home
        self.models = home / "models"
        self.services = composition(variables)
        names = ("postgres", "valkey", "seaweedfs", "api")
        self.ports = {name: free_port() for name in names}
        self._seaweed_ports = {name: free_port() for name in ("master", "volume", "filer")}
        self.metrics_ports: dict[str, int] = {}
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, service: str, replica: int = 1) -> None:
        """Start one container's process, and wait until its health check passes; `migrate` until its end."""
        name = f"{service}-{replica}"
        (self.home / name / "data").mkdir(parents=True)
        self.metrics_ports[name] = free_port()
        if service == "postgres":
            self._initialise_postgres(name)
        with (self.home / name / "log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                self._command(service, name),
                env=self._environment(service, name),
                stdout=log,
                stderr=log,
                cwd=ROOT if service != "seaweedfs" else self.home / name,
                user="postgres" if service == "postgres" and os.getuid() == 0 else None,
            )
        if "healthcheck" not in self.services[service]:
            assert self.running.pop(name).wait(PATIENCE) == 0, self.log(name)
            return
        deadline = time.monotonic() + PATIENCE
        while (told := self._health(service, name)).returncode:
            assert self.running[name].poll() is None and time.monotonic() < deadline, self.log(name) + told.stdout
            time.sleep(0.3)
        if service == "postgres":
            self._create_database()

    def log(self, name: str) -> str:
        """What a container's process has written."""
        return (self.home / name / "log").read_text()

    def stop(self) -> dict[str, int]:
        """Stop all processes with SIGTERM, as `docker compose down` does, last started first; gives exit codes."""
        codes = {}
        for name, process in reversed(self.running.items()):
            process.send_signal(signal.SIGINT if name.startswith("postgres") else signal.SIGTERM)
            try:
                codes[name] = process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                codes[name] = process.wait()
        self.running.clear()
        return codes

    def _localized(self, name: str, text: str) -> str:
        """The one place where Compose's network, mounts and images become those of this machine.

        Host names become 127.0.0.1 with a free port for each service, since all share one address here; `/data` and
        `/models` become directories of the test; programs become those that are installed here under other names.
        """
        service = name.rpartition("-")[0]
        replacements = {
            "postgres:5432": f"127.0.0.1:{self.ports['postgres']}",
            "valkey:6379": f"127.0.0.1:{self.ports['valkey']}",
            "seaweedfs:8333": f"127.0.0.1:{self.ports['seaweedfs']}",
            "127.0.0.1:8333": f"127.0.0.1:{self.ports['seaweedfs']}",
            "127.0.0.1:8000": f"127.0.0.1:{self.ports['api']}",
            "127.0.0.1:9464": f"127.0.0.1:{self.metrics_ports[name]}",
            "-s3.ip.bind=0.0.0.0": "-s3.ip.bind=127.0.0.1",
            "-s3.port=8333": f"-s3.port={self.ports['seaweedfs']}",
            "valkey-server": str(redis_program()),
            "valkey-cli": f"redis-cli -p {self.ports['valkey']}",
        }
        for theirs, ours in replacements.items():
            text = text.replace(theirs, ours)
        words = {
            "9464": str(self.metrics_ports[name]),
            "8000": str(self.ports["api"]),
            "0.0.0.0": "127.0.0.1",
            "weed": str(weed_program()),
            "python": sys.executable,
            "pg_isready": str(postgres_program("pg_isready")),
        }
        text = words.get(text, text)
        text = re.sub(r"(^|=)/data\b", rf"\1{self.home / name / 'data'}", text)
        return re.sub(r"^/models\b", str(self.models), text) if service != "seaweedfs" else text

    def _command(self, service: str, name: str) -> list[str]:
        described = self.services[service]
        words = [*described.get("entrypoint", []), *described["command"]]
        if service == "postgres":
            data = self.home / name / "data"
            options = ["-D", data, "-p", self.ports["postgres"], "-k", data, "-c", "listen_addresses=127.0.0.1"]
            words = [postgres_program("postgres"), *words[1:], *options]
        command = [self._localized(name, str(word)) for word in words]
        if service == "valkey":
            command += ["--port", str(self.ports["valkey"]), "--bind", "127.0.0.1"]
        if service == "seaweedfs":
            command += [f"-{part}.port={port}" for part, port in self._seaweed_ports.items()]
            command += [f"-{part}.port.grpc={free_port()}" for part in ("master", "volume", "filer", "s3")]
        return [*SGG.split(), *command[1:]] if command[0] == "sgg" else command

    def _environment(self, service: str, name: str) -> dict[str, str]:
        """What the container has: its image's variables and its own. Of this machine only what finds programs."""
        machine = {key: os.environ[key] for key in ("PATH", "HOME", "TMPDIR") if key in os.environ}
        image = image_environment() if self.services[service]["image"].startswith("sgg-") else {}
        stated = {key: str(value) for key, value in self.services[service].get("environment", {}).items()}
        theirs = {key: self._localized(name, value) for key, value in (image | stated).items()}
        return machine | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | theirs

    def _health(self, service: str, name: str) -> subprocess.CompletedProcess[str]:
        kind, *words = self.services[service]["healthcheck"]["test"]
        command = [self._localized(name, word) for word in words]
        if service == "postgres":
            command += ["--port", str(self.ports["postgres"])]
        return subprocess.run(
            command[0] if kind == "CMD-SHELL" else command,
            shell=kind == "CMD-SHELL",
            env=self._environment(service, name),
            capture_output=True,
            text=True,
            check=False,
        )

    def _initialise_postgres(self, name: str) -> None:
        """Do what the image's entrypoint does before the first start."""
        data, variables = self.home / name / "data", self.services["postgres"]["environment"]
        password = self.home / name / "password"
        password.write_text(variables["POSTGRES_PASSWORD"])
        if os.getuid() == 0:  # Postgres refuses to run as root
            account = pwd.getpwnam("postgres")
            for path in (data, password):
                os.chown(path, account.pw_uid, account.pw_gid)
            for parent in data.parents:
                if parent.stat().st_uid == 0 and parent.is_relative_to("/tmp") and parent != Path("/tmp"):
                    parent.chmod(parent.stat().st_mode | 0o011)
        subprocess.run(
            [
                str(postgres_program("initdb")),
                *("-D", data, "-U", variables["POSTGRES_USER"], "--no-sync", "-E", "UTF8"),
                *("--auth=scram-sha-256", "--pwfile", password),
            ],
            user="postgres" if os.getuid() == 0 else None,
            check=True,
            capture_output=True,
        )

    def _create_database(self) -> None:
        variables = self.services["postgres"]["environment"]
        with psycopg.connect(
            host="127.0.0.1",
            port=self.ports["postgres"],
            user=variables["POSTGRES_USER"],
            password=variables["POSTGRES_PASSWORD"],
            dbname="postgres",
            autocommit=True,
        ) as connection:
            connection.execute(f"CREATE DATABASE {variables['POSTGRES_DB']}")  # type: ignore[call-overload]


def missing_programs() -> list[str]:
    """What of this machine's programs a Stack needs and does not find."""
    needed = {
        "redis-server": redis_program(),
        "redis-cli": shutil.which("redis-cli"),
        "postgres": postgres_program("postgres"),
        "weed": weed_program(),
        "curl": shutil.which("curl"),
    }
    return [name for name, path in needed.items() if path is None]
