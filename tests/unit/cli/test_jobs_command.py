"""How jobs are printed."""

import json

import httpx

from cli.jobs import _facts

JOB = {
    "id": "ftjob-1", "status": "failed", "model": "m", "method": {"type": "sgg", "sgg": {"start_from": None}},
    "created_at": 0, "finished_at": 1, "training_file": "file-1", "validation_file": None, "seed": 1,
    "metadata": {"team": "support", "note": "a=b"},
    "trained_tokens": None, "fine_tuned_model": None, "result_files": [],
    "error": {"code": "out_of_memory", "message": "The GPU has no memory left.", "param": None},
    "sgg": {
        "queue_position": None, "workers": 1, "step": 3, "total_steps": 9, "sources": [], "attempts": 1,
        "last_checkpoint": None, "failure": {"code": "out_of_memory", "fault": "user", "remedy": "Use less."},
    },
}  # fmt: skip


SUCCEEDED = JOB | {
    "status": "succeeded", "result_files": ["file-1", "file-2"], "error": None,
    "sgg": JOB["sgg"] | {"artifacts": [{"file_id": "file-1"}, {"file_id": "file-2"}], "failure": None},
}  # fmt: skip


def test_a_failed_job_tells_its_code_and_whose_fault_it_is():
    assert _facts(JOB)[-4:] == (
        ("error", "The GPU has no memory left."),
        ("code", "out_of_memory"),
        ("fault", "user"),
        ("remedy", "Use less."),
    )
    well = JOB | {"error": None, "sgg": JOB["sgg"] | {"failure": None}}
    assert dict(_facts(well)[-4:]) == dict.fromkeys(("error", "code", "fault", "remedy"))


def test_a_jobs_metadata_is_told_in_pairs():
    assert dict(_facts(JOB))["metadata"] == "team=support, note=a=b"
    assert dict(_facts(JOB | {"metadata": {}}))["metadata"] is None


def test_checkpoints_are_listed_with_their_names_steps_and_losses(sgg_to):
    found = [
        {"fine_tuned_model_checkpoint": "ft:m:p:s:1:ckpt-step-8", "step_number": 8,
         "metrics": {"train_loss": 0.25, "full_valid_loss": 0.5}},
        {"fine_tuned_model_checkpoint": "ft:m:p:s:1:ckpt-step-4", "step_number": 4, "metrics": {"train_loss": 1.0}},
    ]  # fmt: skip

    def answer(request):
        assert request.url.path == "/v1/fine_tuning/jobs/ftjob-1/checkpoints"
        return httpx.Response(200, json={"data": found, "has_more": False})

    sgg = sgg_to(answer)
    _, newest, oldest = sgg("jobs", "checkpoints", "ftjob-1").stdout.splitlines()
    assert newest.split() == ["ft:m:p:s:1:ckpt-step-8", "8", "0.2500", "0.5000"]
    assert oldest.split() == ["ft:m:p:s:1:ckpt-step-4", "4", "1.0000", "-"]
    assert json.loads(sgg("jobs", "checkpoints", "ftjob-1", "--json").stdout) == found
    found.clear()
    assert sgg("jobs", "checkpoints", "ftjob-1").stdout == "The job has no checkpoints.\n"


def test_a_place_that_cannot_be_written_is_named(sgg_to, tmp_path):
    (tmp_path / "file").write_text("")
    job = SUCCEEDED
    answers = {"/v1/fine_tuning/jobs/ftjob-1": job, "/v1/files/file-2": {"id": "file-2", "sgg": {"sha256": "0"}}}
    sgg = sgg_to(lambda request: httpx.Response(200, json=answers[request.url.path]))
    refused = sgg("jobs", "download", "ftjob-1", "--out", tmp_path / "file" / "adapter", "--json")
    assert refused.exit_code == 1
    assert "Cannot write" in json.loads(refused.stderr or refused.stdout)["error"]["message"]


def test_of_a_job_whose_model_was_deleted_the_adapter_is_told_to_be_gone(sgg_to, tmp_path):
    left = SUCCEEDED["sgg"] | {"artifacts": [{"file_id": "file-1"}]}
    answers = {"/v1/fine_tuning/jobs/ftjob-1": SUCCEEDED | {"sgg": left}}
    sgg = sgg_to(lambda request: httpx.Response(200, json=answers[request.url.path]))
    refused = sgg("jobs", "download", "ftjob-1", "--out", tmp_path / "adapter", "--json")
    assert refused.exit_code == 1 and not (tmp_path / "adapter").exists()
    message = json.loads(refused.stderr or refused.stdout)["error"]["message"]
    assert "ftjob-1 is gone: its model was deleted, or its file has expired" in message
