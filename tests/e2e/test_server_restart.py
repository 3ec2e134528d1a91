"""A server that is killed or stopped under a running job, while somebody watches."""

import signal
import time

import pytest

from worker.testing import eventually

SLOW = (
    "optimization.max_steps=200",
    "optimization.epochs=50",
    "optimization.batch_size=1",
    "task.max_tokens=256",
    "checkpoint.every_steps=20",
)


@pytest.mark.parametrize("ending", ["kill", "stop impatiently"])
def test_a_job_and_its_watcher_survive_the_server(own_service, tickets, ending):
    job_id = own_service.submit(tickets, *SLOW)
    with own_service.sgg_background("jobs", "watch", job_id) as watcher:
        own_service.wait_for_step(job_id, 30)
        assert watcher.stdout.readline()  # somebody watches by now
        if ending == "kill":
            own_service.kill()
        else:
            own_service.process.send_signal(signal.SIGINT)
            time.sleep(0.05)
            own_service.process.send_signal(signal.SIGINT)
            assert own_service.stop() == 0, own_service.log.read_text()
            assert "Traceback" not in own_service.log.read_text()
        time.sleep(1.0)  # so that the watcher meets a closed door
        own_service.start()
        out, err = watcher.communicate(timeout=240)
    assert watcher.returncode == 0, out + err
    assert "The server is back." in out
    assert out.splitlines()[-1].startswith("succeeded: step ")
    job = own_service.sgg_json("jobs", "show", job_id)
    assert job["sgg"]["attempts"] == 2


def test_a_server_says_that_its_worker_is_not_up_yet_until_it_is_ready(own_service):
    own_service.kill()
    own_service.start()  # returns at the first answer

    def is_ready():
        answer = own_service.http.get(own_service.url.replace("/v1", "/health/ready"))
        if answer.status_code != 200:
            assert answer.status_code == 503
            assert answer.json()["checks"] == {
                "database": "ok", "object_store": "ok", "reaper": "ok",
                "worker": "It is starting; jobs wait in the queue until it is up."
            }  # fmt: skip
        return answer.status_code == 200

    assert eventually(is_ready)
