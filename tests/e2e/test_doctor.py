"""`sgg doctor` beside a running server, and where one thing after the other is broken."""

import json
import os
import subprocess

import pytest

from tests.e2e.conftest import SGG, Service
from tests.servers import RedisServer, free_port, redis_program


def examine(service, *options, **environment):
    """Run it; gives the exit code, and the findings by their part."""
    command = [*SGG, "doctor", "--json", *options]
    environment = service.environment | environment
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.stdout, done.stderr
    told = json.loads(done.stdout)
    assert told["ok"] == (done.returncode == 0) == all(each["status"] != "problem" for each in told["findings"])
    for each in told["findings"]:
        assert each["message"] and (each["remedy"] or each["status"] != "problem")
    return done.returncode, {each["part"]: each for each in told["findings"]}


def problems(found):
    return {part for part, each in found.items() if each["status"] == "problem"}


def test_beside_a_running_server_all_is_well(service):
    code, found = examine(service, SGG_CPU_PRECISION="float32")
    assert (code, problems(found)) == (0, set())
    assert found["gpu"]["status"] == "ok" or "in float32" in found["gpu"]["message"]
    for part in ("python", "packages", "data directory", "database", "broker", "object store", "disk", "memory", "key"):
        assert found[part]["status"] == "ok", found[part]
    assert str(service.process.pid) in found["lock"]["message"]
    assert "is ready" in found["server"]["message"]
    assert found["base model tiny"]["message"].endswith("; it loads.")


def test_for_people_it_ends_with_one_word_of_the_whole(service):
    done = service.sgg("doctor", "--quick")
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "All is well."


def test_before_the_first_start_nothing_is_wrong_and_nothing_is_made(tmp_path):
    service = Service(tmp_path)
    del service.environment["SGG_BASE_URL"]
    code, found = examine(service, "--quick", SGG_BASE_URL="")
    assert (code, problems(found)) == (0, set())
    assert found["database"]["status"] == "note"
    assert not service.data_dir.exists()


def test_each_broken_part_is_named_with_what_to_do(tmp_path, tiny_directory):
    service = Service(tmp_path)
    service.add_base_model(tiny_directory)
    (service.data_dir / "admin-key").write_text("sgg_00_wrong\n")
    (service.data_dir / "admin-key").chmod(0o644)
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "config.json").write_text("{}")
    added = service.sgg("models", "add", "damaged", "--kind", "causal", "--directory", damaged)
    assert added.returncode == 0, added.stderr
    (service.data_dir / "objects").write_text("a file where a directory should be")
    code, found = examine(
        service,
        SGG_DATABASE_URL="postgresql+psycopg://sgg:Pa55word@127.0.0.1:1/sgg",
        SGG_BROKER_URL="redis://:Pa55word@127.0.0.1:1/0",
    )
    assert code == 1
    assert problems(found) == {"data directory", "database", "broker", "object store", "base model damaged", "server"}
    assert "chmod 600" in found["data directory"]["remedy"]
    assert "SGG_DATABASE_URL" in found["database"]["remedy"] and "SGG_BROKER_URL" in found["broker"]["remedy"]
    assert "sgg serve" in found["server"]["remedy"]
    assert "Pa55word" not in str(found)


def test_a_setting_that_makes_no_sense_is_named(tmp_path):
    code, found = examine(Service(tmp_path), "--quick", SGG_LEASE_SECONDS="soon")
    assert code == 1
    assert "SGG_LEASE_SECONDS" in found["settings"]["message"]


def test_a_key_that_the_server_does_not_know_is_told(service):
    code, found = examine(service, "--quick", SGG_API_KEY="sgg_0000000000000000_" + "x" * 43)
    assert code == 1 and problems(found) == {"key"}
    assert "SGG_API_KEY" in found["key"]["remedy"]


def test_older_tables_are_told_with_the_command_that_upgrades_them(tmp_path):
    service = Service(tmp_path)
    service.data_dir.mkdir()
    (service.data_dir / "sgg.sqlite3").touch()
    _, found = examine(service, "--quick")
    assert found["database"]["status"] == "problem" and "sgg db upgrade" in found["database"]["remedy"]


@pytest.mark.redis
def test_a_doorbell_comes_back_on_a_queue_of_its_own_which_is_gone_afterwards(tmp_path):
    if redis_program() is None:
        pytest.fail("no Redis server") if os.environ.get("CI") else pytest.skip("no Redis server")
    broker = RedisServer()
    broker.start()
    try:
        url = f"{broker.url}/0"
        port = str(free_port())
        _, found = examine(Service(tmp_path), "--quick", SGG_BROKER_URL=url, SGG_BASE_URL=f"http://127.0.0.1:{port}/v1")
        assert "a doorbell came back" in found["broker"]["message"]
        with broker.client(0) as client:
            assert [key for key in client.scan_iter() if b"check" in key] == []
            client.execute_command("CONFIG", "SET", "maxmemory", "1")  # from now on it takes nothing
        _, found = examine(Service(tmp_path), "--quick", SGG_BROKER_URL=url, SGG_BASE_URL=f"http://127.0.0.1:{port}/v1")
        assert found["broker"]["status"] == "problem"
    finally:
        broker.close()
