"""A job is run again with changes: its examples are corrected where they are shown, and nothing else changes."""

import json
import re

import pytest
from playwright.sync_api import expect

from tests.e2e.browsing import api, show, sign_in, too_wide, violations

QUICK = ("optimization.max_steps=2", "task.max_tokens=256")
BILLS = ("I was charged twice", "wrong sum on the bill", "refund my payment", "no receipt came", "the price went up")
BUGS = ("the app crashes", "the page stays blank", "search does nothing", "the map freezes", "error when saving")
ROWS = [(text, label) for texts, label in ((BILLS, "bill"), (BUGS, "bug")) for text in texts]


@pytest.fixture
def table(tmp_path):
    """A table with a blank line and an example of two lines, so that no example stands on the line of its number."""
    path = tmp_path / "tickets.csv"
    texts = [f"{text},{label}\n" for text, label in ROWS]
    path.write_text("".join(["text,label\n", *texts[:3], "\n", '"a bill,\nin two lines",bill\n', *texts[3:]]))
    return path


@pytest.fixture
def held_out(tmp_path):
    path = tmp_path / "held_out.jsonl"
    rows = [{"text": f"{text}, once more", "label": label} for text, label in ROWS]
    path.write_text("\n\n".join(json.dumps(row) for row in rows) + "\n")
    return path


def uploaded(service, *paths):
    return [file["id"] for file in service.sgg_json("files", "upload", *paths)]


def content(http, file_id):
    return http.get(f"/files/{file_id}/content").raise_for_status().text


def is_held(page):
    """Whether the page would ask before it is closed."""
    return not page.evaluate("dispatchEvent(new Event('beforeunload', {cancelable: true}))")


def started(page, http):
    """The job that the page starts now."""
    page.get_by_role("button", name="Start the training").click()
    expect(page).to_have_url(re.compile(r"#/jobs/ftjob-"))
    return http.get(f"/fine_tuning/jobs/{page.url.rpartition('/')[2]}").json()


def test_examples_of_an_earlier_job_are_corrected_and_saved_as_a_new_file(page, service, table, held_out):
    with api(service) as http:
        ids = uploaded(service, table, held_out, held_out)
        method = {
            "type": "supervised",
            "supervised": {
                "hyperparameters": {"max_steps": 2, "task": {"max_tokens": 256}},
                "retention_file": ids[2],
                "priority": -1,
            },
        }
        request = {"model": "tiny", "training_file": ids[0], "validation_file": ids[1], "method": method, "seed": 5}
        earlier = http.post(
            "/fine_tuning/jobs", json={**request, "metadata": {"name": "first", "team": "support"}}
        ).json()
        before = [content(http, each) for each in ids]
        show(page, service, f"new?from={earlier['id']}")
        page.get_by_role("button", name="Look at them and correct them").click()
        page.get_by_text("All 21 examples").click()
        two_lines = page.locator("details .example", has_text="in two lines")
        two_lines.get_by_label("Label of example 4").select_option("bug")
        page.get_by_role("button", name="Remove example 1", exact=True).click()
        expect(page.locator("details .example", has_text="once more").first).to_contain_text("set aside")
        page.get_by_role("button", name="Save the changes").click()
        again = started(page, http)
        assert again["training_file"] != ids[0]
        assert again["validation_file"] == ids[1]  # what has not changed stays the same file, and can be compared
        assert again["metadata"] == earlier["metadata"]
        assert again["method"] == earlier["method"]
        assert again["seed"] == earlier["seed"]
        rows = [json.loads(line) for line in content(http, again["training_file"]).splitlines()]
        expected = [*ROWS[1:3], ("a bill,\nin two lines", "bug"), *ROWS[3:]]
        assert [(row["text"], row["label"]) for row in rows] == expected
        assert http.get(f"/files/{again['training_file']}").json()["filename"] == "tickets.corrected.jsonl"
        assert [content(http, each) for each in ids] == before


def test_without_changes_a_job_runs_on_the_same_files(page, service, table, held_out):
    with api(service) as http:
        train, valid = uploaded(service, table, held_out)
        method = {"type": "sgg", "sgg": {"hyperparameters": {"max_steps": 2, "task": {"max_tokens": 256}}}}
        request = {"model": "tiny", "training_file": train, "validation_file": valid, "method": method}
        earlier = http.post("/fine_tuning/jobs", json=request).json()
        files = http.get("/files", params={"purpose": "fine-tune"}).json()["data"]
        show(page, service, f"new?from={earlier['id']}")
        page.get_by_role("button", name="Look at them and correct them").click()
        expect(page.get_by_text("All 21 examples")).to_be_visible()
        again = started(page, http)
        same = ("training_file", "validation_file", "model", "seed", "method")
        assert {name: again[name] for name in same} == {name: earlier[name] for name in same}
        assert http.get("/files", params={"purpose": "fine-tune"}).json()["data"] == files


def test_what_the_training_doubted_is_shown_where_it_can_be_corrected(phone, service, tmp_path):
    rows = [{"text": f"{text}, case {n}", "label": label} for n in range(3) for text, label in ROWS]
    rows[2]["label"] = "bug"
    path = tmp_path / "marked.jsonl"
    path.write_text("\n" + "".join(json.dumps(row) + "\n" for row in rows))
    job_id = service.submit(path, *QUICK)
    service.wait_for_success(job_id)
    with api(service) as http:
        ranked = http.get(f"/fine_tuning/jobs/{job_id}/examples").json()["data"]
    doubt = next(each for each in ranked if each["predicted_label"] != each["label"])
    show(phone, service, f"jobs/{job_id}")
    phone.get_by_role("link", name="Correct them and run again").click()
    finding = (
        phone.locator(".example", has_text="The earlier training doubts the label.")
        .filter(has_text=doubt["text"])
        .first
    )
    expect(finding).to_contain_text(doubt["reason"])
    place = doubt["line"] - 1  # the file begins with a blank line
    finding.get_by_label(f"Label of example {place}").select_option(doubt["predicted_label"])
    expect(phone.locator(".example", has_text=doubt["reason"]).filter(has_text=doubt["text"])).to_have_count(0)
    phone.get_by_role("button", name="Save the changes").click()
    expect(phone.get_by_role("button", name="Start the training")).to_be_enabled()
    assert too_wide(phone) == []
    assert violations(phone) == []


def test_a_correction_can_be_corrected_and_leaves_one_file(page, service, table):
    def corrected(http):
        files = http.get("/files", params={"purpose": "fine-tune"}).json()["data"]
        return [file["id"] for file in files if file["filename"] == "tickets.corrected.jsonl"]

    job_id = service.submit(table, *QUICK)
    with api(service) as http:
        before = corrected(http)
        show(page, service, f"new?from={job_id}")
        page.get_by_role("button", name="Look at them and correct them").click()
        page.get_by_text("All 11 examples").click()
        for label in ("bug", "bill", "bug"):
            page.locator("details").get_by_label("Label of example 1", exact=True).select_option(label)
            assert is_held(page)
            page.get_by_role("button", name="Save the changes").click()
            expect(page.get_by_role("button", name="Start the training")).to_be_enabled()
            assert not is_held(page)
        (made,) = set(corrected(http)) - set(before)
        assert json.loads(content(http, made).splitlines()[0]) == {"text": BILLS[0], "label": "bug"}
        assert http.get(f"/files/{service.job(job_id)['training_file']}").status_code == 200


def test_corrections_that_are_not_saved_are_not_left_unasked(page, service, table):
    answers = [False, False, True]
    page.on("dialog", lambda dialog: dialog.accept() if answers.pop(0) else dialog.dismiss())
    show(page, service, "new")
    page.get_by_label("Drop a file here").set_input_files(table)
    page.get_by_text("All 11 examples").click()
    page.get_by_role("button", name="Remove example 1", exact=True).click()
    page.get_by_role("link", name="Files").click()
    expect(page.get_by_text("All 10 examples")).to_be_visible()
    assert page.url.endswith("#/new")
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_text("All 10 examples")).to_be_visible()
    page.get_by_role("link", name="Files").click()
    expect(page.get_by_role("heading", name="Files", exact=True)).to_be_visible()
    assert answers == []
    page.get_by_role("link", name="Keys").click()  # nothing is lost by this
    expect(page.get_by_role("heading", name="Keys and usage")).to_be_visible()


def test_corrections_outlive_the_end_of_the_session(page, service, table):
    show(page, service, "new")
    page.get_by_label("Drop a file here").set_input_files(table)
    page.get_by_text("All 11 examples").click()
    page.get_by_role("button", name="Remove example 1", exact=True).click()
    page.context.clear_cookies()
    page.get_by_role("button", name="Save the changes").click()
    expect(page.get_by_role("alert")).to_contain_text("The session has ended")
    expect(page.get_by_text("All 10 examples")).to_be_hidden()
    page.get_by_label("API key").fill((service.data_dir / "admin-key").read_text().strip())
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_text("All 10 examples")).to_be_visible()
    page.get_by_role("button", name="Save the changes").click()
    expect(page.get_by_role("button", name="Start the training")).to_be_enabled()
    expect(page.get_by_role("alert")).to_have_count(0)


def test_a_question_that_is_open_when_the_session_ends_does_not_stand_before_the_door(page, service, table):
    with api(service) as http:
        body = {"model": "tiny", "training_file": uploaded(service, table)[0]}
        job_id = http.post("/fine_tuning/jobs", json=body).raise_for_status().json()["id"]
        http.post(f"/fine_tuning/jobs/{job_id}/pause").raise_for_status()
    show(page, service, f"jobs/{job_id}")
    page.get_by_role("button", name="Cancel", exact=True).click()
    expect(page.get_by_role("dialog")).to_be_visible()
    page.context.clear_cookies()
    expect(page.get_by_role("alert")).to_contain_text("The session has ended")  # the page asks by itself
    page.evaluate("location.hash = '#sign-in=none-that-works'")
    expect(page.get_by_role("alert")).not_to_contain_text("The session has ended")
    page.get_by_label("API key").fill((service.data_dir / "admin-key").read_text().strip())
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("button", name="Cancel", exact=True)).to_be_visible()
    assert page.url.endswith(f"#/jobs/{job_id}")


def test_a_page_goes_on_with_the_session_that_another_tab_began(page, service, table):
    show(page, service, "new")
    other = page.context.new_page()
    other.goto(page.url)
    other.get_by_role("button", name="Sign out").click()
    sign_in(other, service)
    other.close()
    page.get_by_label("Drop a file here").set_input_files(table)
    expect(page.get_by_role("button", name="Start the training")).to_be_visible()


def test_a_model_is_tried_whose_training_file_is_deleted(page, service, tmp_path):
    path = tmp_path / "subjects.jsonl"
    path.write_text('{"prompt": "say good ", "completion": "good"}\n' * 4)
    job_id = service.submit(path, "optimization.max_steps=2", "task.max_tokens=256")
    service.wait_for_success(job_id)
    with api(service) as http:
        job = http.get(f"/fine_tuning/jobs/{job_id}").json()
        assert http.delete(f"/files/{job['training_file']}").status_code == 200
    show(page, service, f"try?model={job['fine_tuned_model']}")
    page.get_by_role("textbox").fill("say good ")
    page.get_by_role("button", name="Ask both").click()
    expect(page.locator(".said")).to_have_count(2)
    expect(page.get_by_role("alert")).to_have_count(0)
    offered = page.locator("main").get_by_role("link", name="Try it", exact=True)
    show(page, service, f"jobs/{job_id}")
    expect(offered).to_be_visible()
    with api(service) as http:
        assert http.delete(f"/models/{job['fine_tuned_model']}").status_code == 200
    page.reload()
    expect(page.get_by_role("heading", name="Downloads")).to_be_visible()
    expect(offered).to_have_count(0)


def test_a_file_that_is_there_is_trained_on_from_the_list_of_files(page, service, table):
    (file_id,) = uploaded(service, table)
    show(page, service, f"files?file={file_id}")
    page.locator("tr.chosen").get_by_role("link", name=re.compile(r"Train on it.*tickets\.csv")).click()
    page.get_by_role("radio", name="tiny").check()
    page.get_by_text("More settings").click()
    page.get_by_label("Maximum steps").fill("2")
    with api(service) as http:
        assert started(page, http)["training_file"] == file_id


def test_the_hardest_examples_are_told_by_their_own_texts(page, service, table):
    settings = ("--model", "tiny", "--train", table, "--validation", table)
    job_id = service.sgg_json("jobs", "submit", *settings, *(part for each in QUICK for part in ("--set", each)))["id"]
    service.wait_for_success(job_id)
    show(page, service, f"jobs/{job_id}")
    page.get_by_text("The hardest examples").click()
    with api(service) as http:
        hardest = http.get(f"/fine_tuning/jobs/{job_id}/report").json()["hardest"]
    examples, lines = page.locator("details .example"), table.read_text().splitlines()
    assert hardest
    expect(examples).to_have_count(len(hardest))
    for number, example in enumerate(examples.all()):
        line = int(example.locator(".num").inner_text())
        assert line == hardest[number]["line"]
        expect(example.locator(".words")).to_contain_text(lines[line - 1].strip('"').split(",")[0])


def test_a_row_of_a_table_with_a_comma_too_many_is_told_and_not_cut(page, service, tmp_path):
    path = tmp_path / "commas.csv"
    path.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in ROWS) + "I paid, twice,bill\n")
    show(page, service, "new")
    page.get_by_label("Drop a file here").set_input_files(path)
    finding = page.locator(".example", has_text="I paid, twice").first
    expect(finding).to_contain_text("The row has 3 columns, the header has 2.")
    finding.get_by_role("button", name="Remove example 11").click()
    page.get_by_role("button", name="Save the changes").click()
    expect(page.get_by_role("button", name="Start the training")).to_be_enabled()


def test_several_learning_rates_are_tried_in_one_job_and_the_page_says_which_was_best(page, service, table, held_out):
    settings = ("--model", "tiny", "--train", table, "--validation", held_out)
    job_id = service.sgg_json("jobs", "submit", *settings, *(part for each in QUICK for part in ("--set", each)))["id"]
    show(page, service, f"new?from={job_id}")
    page.get_by_text("More settings").click()
    page.get_by_label("Learning rate").fill("0.001, 0.01")
    with api(service) as http:
        job = started(page, http)
        assert job["method"]["sgg"]["hyperparameters"]["learning_rate"] == [0.001, 0.01]
        service.wait_for_success(job["id"])
        trainings = page.get_by_role("table", name="Each training").get_by_role("row")
        expect(trainings).to_have_count(3)
        expect(trainings.filter(has_text="kept")).to_have_count(1)
        expect(page.get_by_text("Lowest validation loss by learning rate: 0.001").first).to_be_visible()
        path = f"/fine_tuning/jobs/{job['id']}"
        best, told = http.get(f"{path}/report").json()["final"], http.get(path).json()["sgg"]["metrics"]
        assert {name: told[name] for name in best} == best
        expect(page.locator(".facts")).to_contain_text(f"Validation accuracy{100 * best['valid_accuracy']:.1f}")
        assert violations(page) == []
        show(page, service, f"new?from={job['id']}")
        page.get_by_text("More settings").click()
        expect(page.get_by_label("Learning rate")).to_have_value("0.001,0.01")
        again = started(page, http)
    assert again["method"]["sgg"]["hyperparameters"]["learning_rate"] == [0.001, 0.01]


def test_folds_choose_a_learning_rate_and_the_page_says_what_the_training_is_worth(page, service, table):
    settings = ("--model", "tiny", "--train", table)
    job_id = service.sgg_json("jobs", "submit", *settings, *(part for each in QUICK for part in ("--set", each)))["id"]
    show(page, service, f"new?from={job_id}")
    page.get_by_text("More settings").click()
    page.get_by_label("Learning rate").fill("0.001, 0.01")
    page.get_by_label("Folds").fill("2")
    with api(service) as http:
        job = started(page, http)
        assert job["method"]["sgg"]["hyperparameters"]["folds"] == 2
        service.wait_for_success(job["id"])
        rates = page.get_by_role("table", name="Learning rates in cross-validation").get_by_role("row")
        expect(rates).to_have_count(3)
        expect(rates.filter(has_text="kept")).to_have_count(1)
        expect(page.get_by_text("training examples judged after training without it").first).to_be_visible()
        assert violations(page) == []
