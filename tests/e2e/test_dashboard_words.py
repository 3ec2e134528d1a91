"""Names, labels and texts that are long, cannot be broken, or run from right to left."""

import json

import pytest
from playwright.sync_api import expect

from tests.e2e.browsing import api, opened, show, sign_in, too_wide

LONG_LABEL = "L" * 120
DESK = {"width": 1280, "height": 900}


@pytest.fixture
def long_names(service, tmp_path):
    """Two files with a long name, and examples of a long label."""
    ids = []
    for which in "ab":
        path = tmp_path / f"{which}{'n' * 200}.jsonl"
        rows = [{"text": f"{label[:9]} {which} {n}", "label": label} for label in (LONG_LABEL, "bug") for n in range(8)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        ids.append(service.sgg_json("files", "upload", path)[0]["id"])
    return ids


def test_long_names_of_files_push_nothing_aside(phone, service, long_names):
    for size in (phone.viewport_size, DESK):
        phone.set_viewport_size(size)
        show(phone, service, "files")
        for action in (
            phone.get_by_role("link", name="Train on it").first,
            phone.get_by_role("button", name="Delete").first,
        ):
            assert action.bounding_box()["height"] < 45  # one line
        assert too_wide(phone) == []
        show(phone, service, f"new?file={long_names[0]}")
        phone.get_by_text("More settings").click()
        expect(phone.get_by_role("checkbox", name="bnn")).to_be_visible()
        assert too_wide(phone) == []


def test_a_long_label_stays_in_its_answer(phone, service, long_names):
    method = {"type": "supervised", "supervised": {"hyperparameters": {"max_steps": 1, "task": {"max_tokens": 512}}}}
    request = {"model": "tiny", "training_file": long_names[0], "method": method}
    with api(service) as http:
        job_id = http.post("/fine_tuning/jobs", json=request).raise_for_status().json()["id"]
    service.wait_for_success(job_id)
    show(phone, service, f"try?model={service.job(job_id)['fine_tuned_model']}")
    phone.get_by_label("A sentence").fill("it crashes")
    phone.get_by_role("button", name="Ask both").click()
    expect(phone.locator(".answers").first).to_contain_text(LONG_LABEL)
    assert too_wide(phone) == []


def test_a_long_name_of_a_key_stays_in_its_column(browser, service):
    with api(service) as http:
        path = f"/organization/projects/{http.get('/project').json()['id']}/api_keys"
        made = http.post(path, json={"name": "K" * 100, "scopes": ["jobs:read", "files:read"]}).json()
        with opened(browser, viewport=DESK) as page:
            sign_in(page, service, made["value"])
            column, name = (page.locator(part).bounding_box() for part in (".side", ".side .foot .cut"))
            assert name["x"] + name["width"] < column["x"] + column["width"]
        http.delete(f"{path}/{made['id']}").raise_for_status()


def test_texts_run_as_their_language_does(page, service, tmp_path):
    path = tmp_path / "languages.jsonl"
    rows = [
        {"text": f"{text} {n}", "label": label} for text, label in (("مرحبا", "تحية"), ("hello", "b")) for n in "12"
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    show(page, service, "new")
    page.get_by_label("Drop a file here").set_input_files(path)
    page.get_by_text("All 4 examples").click()
    words = page.locator("details .example .words")
    expect(words).to_have_count(4)
    begins = """(words) => {
        const first = document.createRange();
        first.setStart(words.firstChild, 0);
        first.setEnd(words.firstChild, 1);
        return first.getBoundingClientRect().left - words.getBoundingClientRect().left;
    }"""
    width = words.first.bounding_box()["width"]
    assert words.nth(0).evaluate(begins) > width / 2
    assert words.nth(2).evaluate(begins) < 2
    name, count = (page.locator(".tag", has_text="تحية").locator(part).bounding_box() for part in ("bdi", "b"))
    assert name["x"] < count["x"]
