"""docker-compose.yml as it stands: valid, without secrets of its own, and with nothing open that need not be."""

from __future__ import annotations

import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.compose import ROOT, ComposeError, composition, image_environment, interpolated, make_env
from tests.unit.test_settings_documents import KINDS
from worker.settings import WorkerSettings

BIN = Path(sys.executable).parent
TEXT = (ROOT / "docker-compose.yml").read_text()
SECRETS = {
    "POSTGRES_PASSWORD": "p", "BROKER_PASSWORD": "b", "S3_ACCESS_KEY_ID": "a", "S3_SECRET_ACCESS_KEY": "s",
    "GRAFANA_PASSWORD": "g",
}  # fmt: skip
WORKERS = ("worker", "worker-gpu")
PUBLISHED = {"api", "grafana"}
ONE_SHOT = {"migrate"}


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    return composition(SECRETS)


def test_the_file_is_what_compose_takes() -> None:
    command = [BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", ROOT / "docker-compose.yml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", SECRETS)
def test_no_secret_has_a_default(name: str) -> None:
    with pytest.raises(ComposeError, match=f"{name}: run docker/make-env first"):
        composition({key: value for key, value in SECRETS.items() if key != name})
    assert not re.search(rf"\$\{{{name}(?!:\?)", TEXT)


def test_a_dollar_sign_and_defaults_are_read_as_compose_reads_them() -> None:
    assert interpolated(["$${A}", "${A:-x}", "${A:-}", "a${B}c"], {"B": "b"}) == ["${A}", "x", "", "abc"]


def test_make_env_writes_secrets_that_differ_for_its_owner_alone_and_never_twice(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for directory in (first, second):
        directory.mkdir()
    written = [make_env(directory) for directory in (first, second)]
    assert set(written[0]) == set(SECRETS)
    for name in set(SECRETS) - {"S3_ACCESS_KEY_ID"}:
        values = [variables[name] for variables in written]
        assert values[0] != values[1] and all(re.fullmatch("[0-9a-f]{64}", value) for value in values)
    assert stat.S_IMODE((first / ".env").stat().st_mode) == 0o600
    assert sorted(path.name for path in first.iterdir()) == [".env", "models"]
    again = subprocess.run([ROOT / "docker" / "make-env", first], capture_output=True, text=True, check=False)
    assert again.returncode == 1 and "stays as it is" in again.stderr
    assert (first / ".env").read_text().splitlines()[1:] == [f"{key}={value}" for key, value in written[0].items()]


def test_every_service_is_locked_down_and_limited(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"] and service["security_opt"] == ["no-new-privileges:true"], name
        limits = service["deploy"]["resources"]["limits"]
        assert set(limits) == {"cpus", "memory", "pids"}, name
        assert "privileged" not in service and "network_mode" not in service, name


def test_every_service_that_stays_says_whether_it_is_well(services: dict[str, Any]) -> None:
    assert {name for name, service in services.items() if "healthcheck" not in service} == ONE_SHOT


def test_images_are_pinned_or_built_here(services: dict[str, Any]) -> None:
    for name, service in services.items():
        _, _, tag = service["image"].partition(":")
        assert ("build" in service) == service["image"].startswith("sgg-"), name
        assert "build" in service or re.search(r"\d", tag), name
    version = services["seaweedfs"]["image"].partition(":")[2]
    assert tuple(map(int, version.split("."))) >= (4, 48), "older ones ignore conditional puts"


def test_nothing_runs_as_root(services: dict[str, Any]) -> None:
    own_users = {"prometheus", "grafana"}  # whose images say so themselves
    dockerfile = (ROOT / "docker" / "Dockerfile").read_text()
    assert re.search(r"^USER 10001:10001$", dockerfile, re.MULTILINE)
    for name, service in services.items():
        assert "build" in service or service.get("user", "root") not in ("root", "0") or name in own_users, name


def test_workers_can_be_scaled_and_reach_nothing_outside(services: dict[str, Any]) -> None:
    networks = yaml.safe_load(TEXT)["networks"]
    assert [name for name, network in networks.items() if network.get("internal")] == ["inside"]
    for name in WORKERS:
        assert services[name]["networks"] == ["inside"]
    for name, service in services.items():
        assert "container_name" not in service and "hostname" not in service
        assert ("ports" in service) == (name in PUBLISHED), name
        assert ("outside" in service["networks"]) == (name in PUBLISHED), name


def test_what_is_published_is_on_the_loopback_unless_asked_otherwise(services: dict[str, Any]) -> None:
    for name in PUBLISHED:
        assert all(port.startswith("127.0.0.1:") for port in services[name]["ports"])


def test_uploads_on_their_way_lie_on_a_disk_and_not_in_memory(services: dict[str, Any]) -> None:
    api = services["api"]
    directory = api["environment"]["TMPDIR"]
    assert directory in {volume.split(":")[-1] for volume in api["volumes"]}
    assert directory not in {mount.split(":")[0] for mount in api["tmpfs"]}


def test_the_broker_keeps_what_it_is_told_and_never_forgets_for_want_of_memory(services: dict[str, Any]) -> None:
    command = services["valkey"]["command"]
    options = dict(zip(command[::2], command[1::2], strict=True))
    assert (options["--appendonly"], options["--maxmemory-policy"]) == ("yes", "noeviction")


def test_of_the_object_store_only_what_asks_for_credentials_is_on_the_network(services: dict[str, Any]) -> None:
    options = dict(word.partition("=")[::2] for word in services["seaweedfs"]["command"])
    assert options["-ip"] == options["-ip.bind"] == "127.0.0.1"
    assert options["-s3.ip.bind"] == "0.0.0.0"
    assert services["seaweedfs"]["environment"]["WEED_JWT_FILER_SIGNING_KEY"]  # else its gRPC asks for nothing


def test_the_gpu_is_for_its_profile_alone(services: dict[str, Any]) -> None:
    assert services["worker-gpu"]["profiles"] == ["gpu"]
    [device] = services["worker-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]
    assert "profiles" not in services["worker"]
    assert "reservations" not in services["worker"]["deploy"]["resources"]


def test_nobody_starts_before_what_it_needs(services: dict[str, Any]) -> None:
    for name in ("api", *WORKERS):
        assert services[name]["depends_on"] == {
            "migrate": {"condition": "service_completed_successfully"},
            "valkey": {"condition": "service_healthy"},
            "seaweedfs": {"condition": "service_healthy"},
        }
    assert services["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}


def test_prometheus_scrapes_the_ports_that_services_serve(services: dict[str, Any]) -> None:
    configured = yaml.safe_load((ROOT / "docker" / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
    found = {
        (name, source["port"]) for job in configured for source in job["dns_sd_configs"] for name in source["names"]
    }
    serving = {
        (name, int(service["environment"]["SGG_METRICS_PORT"]))
        for name, service in services.items()
        if "SGG_METRICS_PORT" in service.get("environment", {})
    }
    assert found == serving == {(name, 9464) for name in ("api", *WORKERS)}


def test_a_worker_has_the_time_to_stop_that_it_is_given() -> None:
    usual, longer = (composition(SECRETS | more) for more in ({}, {"SGG_STOP_GRACE_PERIOD": "90s"}))
    for name in WORKERS:
        seconds = float(usual[name]["stop_grace_period"].removesuffix("s"))
        assert seconds >= WorkerSettings.model_fields["stop_seconds"].default + 5
        assert longer[name]["stop_grace_period"] == "90s"


def test_every_setting_of_the_documents_reaches_api_and_workers_from_the_env_file() -> None:
    """But for those that are the composition's own affair."""
    own = {f"SGG_S3_{name}" for name in ("ENDPOINT", "ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "REGION", "PATH_STYLE")}
    own |= {"SGG_DATA_DIR", "SGG_CATALOGUE_DIR", "SGG_DATABASE_URL", "SGG_BROKER_URL", "SGG_OBJECT_STORE_URL"}
    own |= {"SGG_METRICS_PORT", "SGG_METRICS_HOST", "SGG_WORKER_NAME"}
    names = {f"{kind.model_config['env_prefix']}{field}".upper() for kind in KINDS for field in kind.model_fields}
    wanted = {name: f"of {name}" for name in names - own}
    told = composition(SECRETS | wanted)
    for name in ("api", *WORKERS):
        assert wanted.items() <= told[name]["environment"].items(), name


def test_an_empty_setting_is_its_default(monkeypatch: pytest.MonkeyPatch) -> None:
    empty = [name for name, value in composition(SECRETS)["api"]["environment"].items() if not value]
    for name in empty:
        monkeypatch.delenv(name, raising=False)
    usual = [kind() for kind in KINDS]
    for name in empty:
        monkeypatch.setenv(name, "")
    assert "SGG_RATE_LIMIT" in empty and [kind() for kind in KINDS] == usual


def test_mounted_files_of_the_project_exist(services: dict[str, Any]) -> None:
    mounts = [volume for service in services.values() for volume in service.get("volumes", [])]
    sources = {mount.partition(":")[0] for mount in mounts if mount.startswith("./docker")}
    assert len(sources) == 3
    assert {source for source in sources if not (ROOT / source).is_dir()} == set()


def test_the_dockerfile_is_sound() -> None:
    command = [BIN / "hadolint", ROOT / "docker" / "Dockerfile"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_builder_gets_what_is_copied_and_nothing_else() -> None:
    copied = set(re.findall(r"^COPY (?!--from)(.+) \S+$", (ROOT / "docker" / "Dockerfile").read_text(), re.MULTILINE))
    needed = {name for names in copied for name in names.split()}
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert {line.removeprefix("!") for line in ignored if line.startswith("!")} == needed
    assert "*" in ignored and all((ROOT / name).exists() for name in needed)
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests", "benchmarks"}
    assert packages <= needed


def test_the_image_keeps_its_data_where_the_volumes_are(services: dict[str, Any]) -> None:
    variables = image_environment()
    assert variables["SGG_DATA_DIR"] == "/data" and variables["SGG_CATALOGUE_DIR"] == "/models"
    for name in ("api", *WORKERS):
        targets = [volume.split(":")[1 if ":" in volume else 0] for volume in services[name]["volumes"]]
        assert sorted(targets) == ["/data", "/models"]
