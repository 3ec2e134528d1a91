"""How dry runs and previews are printed."""

from __future__ import annotations

from typing import Any

import pytest
import typer

from cli.dry_run import print_dry_run
from cli.preview import _print

DRY_RUN: dict[str, Any] = {
    "object": "fine_tuning.job.dry_run",
    "valid": False,
    "findings": [
        {
            "severity": "error", "code": "x", "param": "training_file", "file_id": "file-1", "line": 3,
            "field": "label",
            "reason": "It is empty.", "remedy": "Fill it in.",
        },
    ],
    "hyperparameters": {"batch_size": 8, "learning_rate": 0.0005},
    "data": {"examples": 32, "labels": {"good": 20, "bad": 12}, "tokens": 2000, "truncated": 0},
    "estimate": {
        "steps": 32, "epochs": 8, "tokens": 16000, "peak_memory_bytes": 1_500_000_000,
        "seconds": {"low": 50.0, "expected": 65.0, "high": 4000.0},
    },
    "queue": {"position": 2, "starts_in_seconds": None},
    "smallest_difference": 0.2,
}  # fmt: skip


def test_a_dry_run_is_printed_with_all_findings_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as exit_:
        print_dry_run(DRY_RUN, as_json=False)
    printed = capsys.readouterr().out
    assert exit_.value.exit_code == 1
    assert "error: training_file, line 3, field 'label': It is empty. Fill it in." in printed
    tokens = "16,000 learned, 2,000 in the file"
    for told in ("good 20, bad 12", "32 in 8 epochs", tokens, "1.5 GB", "1 min 5 s (50 s to 1 h 6 min)", "20.0 %"):
        assert told in printed


def test_a_good_dry_run_without_a_worker_succeeds(capsys: pytest.CaptureFixture[str]) -> None:
    unknown = {"tokens": None, "peak_memory_bytes": None, "seconds": None}
    data = DRY_RUN["data"] | {"tokens": None, "truncated": None}
    estimate = DRY_RUN["estimate"] | unknown
    print_dry_run(DRY_RUN | {"valid": True, "findings": [], "data": data, "estimate": estimate}, as_json=False)
    assert "no job was made" in capsys.readouterr().out


def test_a_preview_marks_trained_parts_without_colours(capsys: pytest.CaptureFixture[str]) -> None:
    segments = [{"text": "Ask\x1b[0m:", "trained": False}, {"text": " answer", "trained": True}]
    example = {"line": 4, "segments": segments, "label": "a", "tokens": 9, "trained_tokens": 2, "truncated": True}
    _print({"trained": "All tokens.", "data": [example | {"problem": None}]})
    printed = capsys.readouterr().out
    assert "line 4: 9 tokens, 2 trained, label 'a', cut at its end" in printed
    assert ":⟦ answer⟧" in printed and "\x1b" not in printed
