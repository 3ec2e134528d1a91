"""What a dry run collects."""

from __future__ import annotations

import time

from api.jobs.dry_run import Findings
from sgg_core.errors import Problem


def test_many_findings_are_collected_quickly_each_once() -> None:
    findings = Findings()
    problems = [Problem(line, "text", "It is empty.", "Write something.") for line in range(10_000)]
    begun = time.process_time()
    for _ in range(2):
        findings.add_file("warning", "suspicious_data", "training_file", "file-1", problems)
    assert time.process_time() - begun < 5
    assert [finding.line for finding in findings.in_order()] == list(range(10_000))


def test_errors_come_first_and_otherwise_the_order_stays() -> None:
    findings = Findings()
    findings.add_warning("slow", "model", "It is slow.", "Take another.")
    findings.add_error("wrong", "b", "It is wrong. Mend it.")
    findings.add_error("wrong", "a", "It is wrong. Mend it.")
    assert [(finding.severity, finding.param) for finding in findings.in_order()] == [
        ("error", "b"),
        ("error", "a"),
        ("warning", "model"),
    ]
