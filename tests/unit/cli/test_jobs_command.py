"""How jobs are printed."""

from cli.jobs import _facts

JOB = {
    "id": "ftjob-1", "status": "failed", "model": "m", "method": {"type": "sgg", "sgg": {"start_from": None}},
    "created_at": 0, "finished_at": 1, "training_file": "file-1", "validation_file": None, "seed": 1,
    "trained_tokens": None, "fine_tuned_model": None, "result_files": [],
    "error": {"code": "out_of_memory", "message": "The GPU has no memory left.", "param": None},
    "sgg": {
        "queue_position": None, "workers": 1, "step": 3, "total_steps": 9, "sources": [], "attempts": 1,
        "last_checkpoint": None, "failure": {"code": "out_of_memory", "fault": "user", "remedy": "Use less."},
    },
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
