"""What the dashboard says a result on texts is worth: losses, not shares of right answers."""

import json
import re

from playwright.sync_api import expect

from tests.e2e.browsing import show, violations


def prompts(path, word):
    rows = [{"prompt": f"{word} number {n}:", "completion": f" {n} is {word}"} for n in range(8)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_texts_are_measured_by_their_loss_against_the_base_model_and_plain_lora(page, service, tmp_path):
    files = ("--train", prompts(tmp_path / "a.jsonl", "good"), "--validation", prompts(tmp_path / "b.jsonl", "fair"))
    settings = ("--set", "optimization.max_steps=2", "--set", 'evaluation.baselines=["plain_lora"]')
    jobs = [
        service.sgg_json("jobs", "submit", "--model", "tiny", *files, *settings, "--seed", seed)["id"]
        for seed in ("1", "2")
    ]
    for job_id in jobs:
        service.wait_for_success(job_id)
    show(page, service, f"jobs/{jobs[0]}")
    card = page.locator(".card", has=page.get_by_role("heading", name="What it is worth"))
    report = page.evaluate("id => fetch(`/v1/fine_tuning/jobs/${id}/report`).then((answer) => answer.json())", jobs[0])
    expect(card.get_by_role("columnheader")).to_have_text(["Measured against", "Its loss", "Difference, a token"])
    expect(card).to_contain_text("of the tokens of 8 validation examples")
    names = ("the base model as it comes", "plain LoRA by its own defaults")
    for baseline, name in zip(report["baselines"], names, strict=True):
        row = card.locator("tr", has_text=name).first
        expect(row).to_contain_text(f"{baseline['loss']:.2f}")
        expect(row).to_contain_text(f"{abs(baseline['comparison']['difference']):.3f}")
        expect(card).to_contain_text(baseline["comparison"]["verdict"])
    said = card.locator("ul.small")
    expect(said).to_contain_text(re.compile(r"The weights moved [a-z ]+: they ended \d+ % of the path's length"))
    assert not re.search(r"\d%", said.inner_text())  # as on the rest of the page
    assert violations(page) == []
    show(page, service, f"compare?jobs={','.join(jobs)}")
    better = page.locator(".card", has=page.get_by_role("heading", name="Is one better?"))
    expect(better).to_contain_text(" a token")
    expect(better).to_contain_text(re.compile(r"No difference between A and B|A is (better|worse) than B"))


def test_curves_of_a_job_with_several_seeds_are_over_the_steps_of_each(page, service, tmp_path):
    files = ("--train", prompts(tmp_path / "a.jsonl", "good"), "--validation", prompts(tmp_path / "b.jsonl", "fair"))
    settings = ("--set", "optimization.max_steps=5", "--set", "optimization.seeds=3")
    job_id = service.sgg_json("jobs", "submit", "--model", "tiny", *files, *settings)["id"]
    service.wait_for_success(job_id)
    show(page, service, f"jobs/{job_id}")
    expect(page.get_by_text("The curves are those of 3 runs")).to_be_visible()
    expect(page.get_by_role("img", name=re.compile("^Loss"))).to_have_attribute("data-points", "5")
    report, job = (
        page.evaluate("path => fetch(path).then((answer) => answer.json())", f"/v1/fine_tuning/jobs/{job_id}{part}")
        for part in ("/report", "")
    )
    kept = report["final"]["valid_loss"]
    assert kept == min(run["valid_loss"] for run in report["replicas"]["runs"])
    assert job["sgg"]["metrics"]["valid_loss"] == kept
    assert violations(page) == []
