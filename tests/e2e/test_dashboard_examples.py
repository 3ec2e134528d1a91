"""What the dashboard says about single examples: contradictions, prompts with masks, doubts after the training."""

import json
import re

from playwright.sync_api import expect

from tests.e2e.browsing import origin, show, too_wide, violations

BILLS = ("I was charged twice", "wrong sum on the bill", "refund my payment", "no receipt came", "the price went up")
BUGS = ("the app crashes", "the page stays blank", "search does nothing", "the map freezes", "error when saving")


def written(tmp_path, rows):
    path = tmp_path / "marked.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def labelled():
    rows = [{"text": f"{text}, case {n}", "label": "bill"} for n in range(3) for text in BILLS]
    return [*rows, *({"text": f"{text}, case {n}", "label": "bug"} for n in range(3) for text in BUGS)]


def bring(phone, service, path):
    show(phone, service, "new")
    phone.get_by_label("Drop a file here").set_input_files(path)


def test_a_contradiction_is_shown_even_where_the_split_parts_it_and_goes_when_corrected(phone, service, tmp_path):
    rows = [*labelled(), {"text": "THE APP  crashes, case 0", "label": "bill"}]
    bring(phone, service, written(tmp_path, rows))
    first = phone.locator(".example", has_text="Example 31 says the same, but is labelled bill.")
    second = phone.locator(".example", has_text="Example 16 says the same, but is labelled bug.")
    expect(first).to_have_count(1)
    expect(second).to_have_count(1)
    second.get_by_label("Label of example 31").select_option("bug")
    expect(first).to_have_count(0)
    expect(phone.get_by_text("1 example repeats an earlier one word for word.")).to_be_visible()


def test_a_label_that_is_being_chosen_stays_its_examples_when_the_servers_findings_arrive(phone, service, tmp_path):
    rows = [{"text": "the app hangs on start"}, *labelled(), {"text": "THE APP  crashes, case 0", "label": "bill"}]
    held = []
    phone.route("**/v1/files", lambda route: held.append(route) if not held else route.continue_())
    bring(phone, service, written(tmp_path, rows))
    chosen = phone.locator(".example", has_text="but is labelled bug.").get_by_label("Label of example 32")
    element = chosen.element_handle()
    held[0].continue_()
    expect(phone.locator(".example", has_text='The field "label" is missing.')).to_have_count(1)
    assert element.get_attribute("aria-label") == "Label of example 32"
    element.select_option("bug")
    expect(phone.get_by_text("but is labelled")).to_have_count(0)


def test_a_missing_label_is_chosen_where_it_is_missing(phone, service, tmp_path):
    bring(phone, service, written(tmp_path, [*labelled(), {"text": "what is this"}]))
    finding = phone.locator(".example", has_text='The field "label" is missing.').first
    finding.get_by_label("Label of example 31").select_option("bug")
    phone.get_by_role("button", name="Save the changes").click()
    expect(phone.get_by_role("button", name="Start the training")).to_be_enabled()


def test_a_spreadsheets_table_is_read_or_refused_but_nothing_in_it_is_lost(phone, service, tmp_path):
    table = "text;label\n" + "".join(f"{row['text']} für 5 €;{row['label']}\n" for row in labelled())
    path = tmp_path / "export.csv"
    path.write_text(table, encoding="cp1252")
    bring(phone, service, path)
    expect(phone.get_by_role("alert")).to_contain_text("export.csv is not text in UTF-8.")
    path.write_text(table, encoding="utf-8-sig")
    phone.get_by_label("Drop a file here").set_input_files(path)
    expect(phone.get_by_role("button", name="Start the training")).to_be_enabled()
    phone.get_by_text("All 30 examples").click()
    expect(phone.locator("details .words").first).to_have_text("I was charged twice, case 0 für 5 €")
    expect(phone.get_by_role("alert")).to_have_count(0)


def test_prompts_are_shown_with_what_is_learned_marked_and_examples_numbered_as_on_the_page(phone, service, tmp_path):
    rows = labelled()
    bring(phone, service, written(tmp_path, rows))
    phone.get_by_role("radio", name="tiny").check()
    phone.get_by_role("button", name="Show what the model will see").click()
    prompts = phone.locator(".prompt")
    expect(prompts).to_have_count(3)
    for prompt in prompts.all():
        place = int(re.match(r"Example (\d+):", prompt.locator("figcaption").inner_text()).group(1))
        expect(prompt.locator("pre")).to_contain_text(rows[place - 1]["text"])
        expect(prompt.locator("figcaption")).to_contain_text(f"its label is {rows[place - 1]['label']}")
        told_apart = {"bill": "i", "bug": "u"}[rows[place - 1]["label"]]  # tokens of the tiny base are single letters
        expect(prompt.locator("mark")).to_have_text(told_apart)
    assert violations(phone) == []


def test_a_setting_that_is_no_number_is_told_and_not_dropped(phone, service, tmp_path):
    bring(phone, service, written(tmp_path, labelled()))
    phone.get_by_role("radio", name="tiny").check()
    phone.get_by_text("More settings").click()
    phone.get_by_label("Maximum steps").fill("many")
    expect(phone.get_by_role("alert")).to_contain_text("Maximum steps: ")
    phone.get_by_label("Maximum steps").fill("4")
    expect(phone.get_by_role("alert")).to_have_count(0)


def test_after_the_training_the_doubted_examples_and_no_others_are_shown(phone, service, tmp_path):
    rows = labelled()
    rows[2]["label"] = "bug"
    job_id = service.submit(written(tmp_path, rows), "optimization.max_steps=2", "task.max_tokens=256")
    show(phone, service, f"jobs/{job_id}")
    expect(phone.locator(".head .badge")).to_have_text("Succeeded")
    ranked = phone.evaluate(
        "id => fetch(`/v1/fine_tuning/jobs/${id}/examples?limit=10`).then((answer) => answer.json())", job_id
    )["data"]
    doubted = [each for each in ranked if each["predicted_label"] != each["label"] or each["gradient_agreement"] < 0]
    assert doubted
    card = phone.locator(".card", has=phone.get_by_role("heading", name="Examples to look at again"))
    expect(card.locator(".example")).to_have_count(len(doubted))
    for shown, each in zip(card.locator(".example").all(), doubted, strict=True):
        expect(shown).to_contain_text(each["text"])
        expect(shown).to_contain_text(f"labelled {each['label']}. {each['reason']}")
        expect(shown.locator(".badge")).to_have_text("strong doubt" if each["suspicion"] >= 0.95 else "some doubt")
    expect(card).not_to_contain_text("Nothing speaks against")
    assert too_wide(phone) == []
    assert violations(phone) == []


def test_what_is_not_known_yet_of_a_job_or_cannot_be_read_is_said_to_be_so(phone, service, tmp_path):
    job_id = service.submit(written(tmp_path, labelled()), "optimization.max_steps=2", "task.max_tokens=256")
    service.wait_for_success(job_id)
    parts = {
        "report": "The report",
        "metrics": "The curves",
        "checkpoints": "The checkpoints",
        "examples": "The examples",
    }
    held = []
    for name in parts:
        phone.route(f"**/{job_id}/{name}?*", lambda route: held.append(route))
    phone.goto(f"{origin(service)}/#/jobs/{job_id}")
    for name in ("report", "curves", "checkpoints"):
        expect(phone.get_by_text(f"Loading the {name}")).to_have_count(1)
    untrue = phone.get_by_text(re.compile("None is kept|curves begin with the first step|ended before its first step"))
    expect(untrue).to_have_count(0)
    for route in held:
        route.fulfill(status=500, json={"error": {"message": "The disk is away."}})
    phone.unroute_all()
    for words in parts.values():
        expect(phone.get_by_role("alert").filter(has_text=words)).to_contain_text("The disk is away.")
    expect(untrue).to_have_count(0)
    assert violations(phone) == []
    for words in parts.values():
        phone.get_by_role("alert").filter(has_text=words).get_by_role("button", name="Try again").click()
    for shown in ("What it is worth", "Loss", "Checkpoints"):
        expect(phone.get_by_role("heading", name=shown, exact=True)).to_be_visible()
    expect(phone.get_by_role("table", name="Checkpoints")).to_be_visible()
    expect(phone.get_by_role("alert")).to_have_count(0)
