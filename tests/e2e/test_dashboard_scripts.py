"""The dashboard's own arithmetic, held to second answers: clipping limits, curves that grow, files that are split.

And what its parts do by themselves: what is read again and when, what is sent and shown.
"""

import csv
import io
import json
import math
import random
from dataclasses import asdict
from datetime import datetime

import pytest
from playwright.sync_api import Error

from sgg_core.card import MOST_CONFUSED
from sgg_core.errors import DataError
from sgg_core.examples import parse_examples
from sgg_core.guidance.magnitude import LogNormClip
from sgg_core.parsing import ProblemLog, read_rows
from sgg_core.plan import BALANCED_BATCH_SIZE, BATCH_SIZE
from sgg_core.shapes import Limits, build_example
from sgg_core.spec import LoraSpec
from tests.e2e.browsing import opened, sign_in

# A chart that is drawn, and leaves while what the page does after painting is held up, as on a busy machine.
LEAVE = """async (address) => {
  const [{ html, render }, { options }, { Chart }] = await Promise.all(
    ["core.js", "vendor/preact.js", "charts.js"].map((file) => import(address + file)));
  const place = document.body.appendChild(document.createElement("div"));
  render(html`<${Chart} title="Loss" text="" series=${[{ label: "a", steps: [1, 2], values: [2, 1] }]} />`, place);
  while (!place.querySelector("canvas")) await new Promise(requestAnimationFrame);
  const late = [];
  options.requestAnimationFrame = (act) => late.push(act);
  render(null, place);
  for (let frame = 0; frame < 5; frame += 1) await new Promise(requestAnimationFrame);
  late.forEach((act) => act());
  options.requestAnimationFrame = undefined;
}"""

# One chart of each pair of figures; the answer is the ticks of their logarithmic axes.
DRAW = """async ([address, pairs]) => {
  const { default: uPlot } = await import(address + "vendor/uplot.js");
  const { logarithmic } = await import(address + "charts.js");
  const range = (plot, low, high) => logarithmic(low, high);
  const options = { width: 300, height: 200, scales: { x: { time: false }, y: { distr: 3, range } }, axes: [{}, {}] };
  const drawn = [];
  for (const pair of pairs) {
    const place = document.createElement("div");
    const plot = new uPlot({ ...options, series: [{}, {}] }, [[1, 2], pair], place);
    await Promise.resolve();  // it draws in a microtask
    drawn.push({ min: plot.scales.y.min, max: plot.scales.y.max, ticks: plot.axes[1]._splits });
    plot.destroy();
  }
  return drawn;
}"""

# A chart as a page makes it: what its legend names, and the ticks of its axes.
AXES = """async ([address, series, log]) => {
  const [{ html, render }, { Chart, logarithmic }, { default: uPlot }] = await Promise.all(
    ["core.js", "charts.js", "vendor/uplot.js"].map((file) => import(address + file)));
  const made = [], place = document.body.appendChild(document.createElement("div"));
  const range = log ? (plot, low, high) => { made.push(plot); return logarithmic(low, high); }
    : (plot, low, high) => { made.push(plot); return [low, high]; };
  render(html`<${Chart} title="Loss" text="" series=${series} log=${log} range=${range} />`, place);
  while (!made[0]?.axes[1]._splits) await new Promise(requestAnimationFrame);
  const [x, y] = made[0].axes, legend = [...place.querySelectorAll(".legend .soft")].map((each) => each.textContent);
  const found = { legend, label: x.label, x: x._splits, y: y._values };
  render(null, place);
  place.remove();
  return found;
}"""

# A chart whose only figure is at the middle of its axes; the answer is whether anything is drawn there.
DRAWS_ONE = """async (address) => {
  const [{ html, render }, { Chart }] = await Promise.all(
    ["core.js", "charts.js"].map((file) => import(address + file)));
  const place = document.body.appendChild(document.createElement("div"));
  const only = [{ label: "a", steps: [6], values: [0] }];
  render(html`<${Chart} title="Cosine" text="" range=${() => [-1, 1]} series=${only} />`, place);
  while (!place.querySelector("canvas")) await new Promise(requestAnimationFrame);
  await new Promise((done) => setTimeout(done, 100));
  const canvas = place.querySelector("canvas"), over = place.querySelector(".u-over");
  const ratio = canvas.width / canvas.clientWidth;
  const middle = [over.offsetLeft + over.clientWidth / 2, over.offsetTop + over.clientHeight / 2];
  const { data } = canvas.getContext("2d").getImageData(...middle.map((at) => Math.round(at * ratio) - 6), 12, 12);
  const wanted = getComputedStyle(place.querySelector(".c0")).color.match(/\\d+/g).map(Number);
  render(null, place);
  place.remove();
  const alike = (at) => wanted.every((part, index) => Math.abs(data[at + index] - part) < 8);
  return Array.from({ length: 144 }, (_, pixel) => pixel * 4).some(alike);
}"""

# What a page shows that reads something: at first, of another name, after news that fail, over an outage.
READ = """async (address) => {
  const [{ html, render }, { useRead }, { get, Unreachable }] = await Promise.all(
    ["core.js", "live.js", "api.js"].map((file) => import(address + file)));
  const place = document.createElement("div"), asked = [], shown = [];
  const read = () => new Promise((resolve, reject) => asked.push({ resolve, reject }));
  const Page = ({ name, news }) => {
    const { value, error, loading } = useRead(read, [name], [news]);
    return html`${[value, error?.message, loading && "loading"].filter(Boolean).join(", ")}`;
  };
  const until = async (met) => { while (!met()) await new Promise((done) => setTimeout(done, 5)); };
  const show = async (name, news) => {
    const reads = asked.length + 1;
    render(html`<${Page} name=${name} news=${news} />`, place);
    shown.push(place.textContent);
    await until(() => asked.length === reads);
  };
  const settle = async (how, what) => {
    asked[asked.length - 1][how](what);
    await new Promise((done) => setTimeout(done, 50));
    shown.push(place.textContent);
  };
  await show("a", 1);
  await settle("resolve", "of a");
  await show("b", 1);
  await settle("resolve", "of b");
  await show("b", 2);
  await settle("reject", new Error("broken"));
  await show("b", 3);
  await settle("reject", new Unreachable());
  await get("/health/live");
  await until(() => asked.length === 5);
  await settle("resolve", "newer of b");
  await get("/health/live");
  render(null, place);
  return [shown, asked.length];
}"""

# The text of a part of a page.
SHOW = """async ([address, file, name, props]) => {
  const [{ html, render }, module] = await Promise.all(["core.js", file].map((each) => import(address + each)));
  const place = document.createElement("div");
  render(html`<${module[name]} ...${props} />`, place);
  const text = place.textContent;
  render(null, place);
  return text;
}"""


def scripts(page, service):
    """Where the modules are."""
    sign_in(page, service)
    return page.evaluate("document.querySelector('script[type=module]').src").removesuffix("app.js")


@pytest.fixture(scope="module")
def workshop(browser, service):
    """A page, and where its modules are."""
    with opened(browser) as page:
        yield page, scripts(page, service)


@pytest.fixture(scope="module")
def module(workshop):
    """Calls a function of one of the dashboard's modules in the browser: `module("examples", "read", ...)`."""
    page, address = workshop
    call = "async ([file, name, values]) => (await import(file))[name](...values)"
    return lambda file, name, *values: page.evaluate(call, [f"{address}{file}.js", name, list(values)])


@pytest.fixture(scope="module")
def part(workshop):
    """The text of a part of a page with the given properties: `part("parts", "Page", title="...")`."""
    page, address = workshop
    return lambda file, name, **props: page.evaluate(SHOW, [address, f"{file}.js", name, props])


def test_a_chart_that_has_left_draws_no_more(browser, service):
    with opened(browser) as page:
        page.evaluate(LEAVE, scripts(page, service))


def test_a_logarithmic_axis_has_an_end_wherever_it_begins(browser, service):
    """uPlot steps from the least value to the next power of ten: from 0.096 it went on for ever, and the page broke."""
    draw = random.Random(5)
    starts = [10 ** draw.uniform(-14, 13) for _ in range(200)]
    pairs = [[least, least * most] for least in starts for most in (1, 30)]
    pairs += [[0.0096 * 1.25, 0.3], [0.0999999 * 1.25, 7], [1e-30, 1e-3], [1e-3, 1e30], [0, 1], [1e-3, 1e-3]]
    with opened(browser) as page:
        drawn = page.evaluate(DRAW, [scripts(page, service), pairs])
    for (low, high), axis in zip(pairs, drawn, strict=True):
        assert 0 < axis["min"] < axis["max"]
        assert len(axis["ticks"]) < 500, (low, high)
        if low > 1e-15 and high < 1e15:
            assert axis["min"] <= low <= high <= axis["max"]


def test_an_axis_of_steps_counts_them_and_a_narrow_logarithmic_one_has_two_ticks_or_more(workshop):
    page, address = workshop
    steps = {"label": "a", "steps": [1, 2, 3], "values": [0.31, 0.35, 0.33]}
    empty = {"label": "b", "steps": [1, 2, 3], "values": [None, None, None]}
    found = page.evaluate(AXES, [address, [steps, empty], True])
    assert found["label"] == "step"
    assert found["legend"] == ["a"]  # nothing is drawn of the other one
    assert found["x"] == [1, 2, 3]
    assert len([tick for tick in found["y"] if tick]) >= 2
    assert page.evaluate(AXES, [address, [steps], False])["x"] == [1, 2, 3]


def test_a_figure_that_is_the_only_one_is_drawn(workshop):
    page, address = workshop
    assert page.evaluate(DRAWS_ONE, address)


def test_ticks_of_an_axis_are_short_and_written_differently(module):
    assert module("charts", "written", [0, 0.25, 0.30000000000000004, None]) == ["0", "0.25", "0.3", ""]
    assert module("charts", "written", [2.563, 2.5635, 2.564, 2.5645]) == ["2.563", "2.5635", "2.564", "2.5645"]
    assert module("charts", "written", [1, 1]) == ["1", "1"]


def test_ticks_of_logarithmic_axes_are_round_and_neither_too_few_nor_too_many(module):
    draw = random.Random(11)
    pairs = [(low, low * 10 ** draw.uniform(0.2, 12)) for low in (10 ** draw.uniform(-10, 5) for _ in range(150))]
    for low, high in [*pairs, (2.1, 4.9), (0.3, 0.31)]:
        ticks = module("charts", "ticksOf", low, high)
        assert 2 <= len(ticks) <= 8, (low, high, ticks)
        assert all(low <= tick <= high for tick in ticks)
        assert ticks == sorted(set(ticks))
        assert all(len(f"{tick:.9e}".partition("e")[0].replace(".", "").rstrip("0")) <= 3 for tick in ticks), ticks
    assert module("charts", "ticksOf", 0.01, 1) == [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1]
    assert module("charts", "ticksOf", 0.01, 100) == [0.01, 0.1, 1, 10, 100]


@pytest.mark.parametrize(("low", "high"), [(0.9, 0.91), (1, 1), (0, 0), (0.2, 0.8), (0, 1), (None, None)])
def test_an_axis_of_shares_shows_a_tenth_at_least_and_no_shares_that_there_are_not(module, low, high):
    begin, end = module("charts", "spanning", low, high, 0.1)
    assert 0 <= begin <= (low or 0) <= (high or 0) <= end <= 1
    assert end - begin >= 0.1 - 1e-9
    if low is not None and high - low < 0.05:
        assert end - begin == pytest.approx(0.1)


def test_nothing_else_is_shown_for_what_is_read_and_it_is_read_again_when_the_server_is_back(workshop):
    page, address = workshop
    shown, reads = page.evaluate(READ, address)
    assert shown[:4] == ["loading", "of a", "loading", "of b"]
    assert shown[4:6] == ["of b", "of b, broken"]
    assert shown[6:] == ["of b, broken", "of b, broken", "newer of b"]  # that a server is away, the frame tells
    assert reads == 5


def test_a_matrix_of_many_labels_is_left_to_the_report(part):
    def shown(size):
        counts = [[0] * size for _ in range(size)]
        labels = [f"label {n}" for n in range(size)]
        return part("pages/report", "Confusion", confusion={"labels": labels, "counts": counts}, whole="#")

    assert f"label {MOST_CONFUSED - 1}{'0' * MOST_CONFUSED}" in shown(MOST_CONFUSED)
    wide = MOST_CONFUSED + 1
    assert shown(wide) == f"Which of the {wide} labels was given for which is in report.json."


def test_a_job_is_asked_for_with_the_defaults_of_the_api(module):
    settings = module("pages/new_settings", "defaults", [{"id": "tiny"}])
    stored = {"training": {"id": "file-a"}, "validation": None}
    sources = {**settings, "sources": ["file-b"]}
    method = module("pages/new_settings", "requestOf", sources, stored)["method"]["sgg"]
    assert method["sources"] == ["file-b"]
    assert "guidance" not in method["hyperparameters"]
    aligned = module("pages/new_settings", "requestOf", {**sources, "alignment": "0.3"}, stored)["method"]["sgg"]
    assert aligned["hyperparameters"]["guidance"] == {"alignment": 0.3}


@pytest.mark.parametrize(
    ("earlier", "rank", "alpha"), [(None, 8, 16), (None, 4, 8), ((4, 16), 8, 32), ((3, 0.1), 3, 0.1)]
)
def test_alpha_grows_with_the_rank_in_a_new_job_and_in_another_one(module, earlier, rank, alpha):
    settings = module("pages/new_settings", "defaults", [{"id": "tiny"}])
    if earlier:
        settings["carried"] = {"lora": {"rank": earlier[0], "alpha": earlier[1], "dropout": 0}}
    stored = {"training": {"id": "file-a"}, "validation": None}
    request = module("pages/new_settings", "requestOf", {**settings, "rank": str(rank)}, stored)
    lora = LoraSpec(**request["method"]["sgg"]["hyperparameters"]["lora"])
    assert (lora.rank, lora.alpha) == (rank, alpha)


def test_what_is_said_of_settings_holds_for_every_model(module, part):
    settings = module("pages/new_settings", "defaults", [{"id": "tiny"}])
    facts = {"kind": "chat", "examples": 9, "labels": []}
    files = [
        {"id": f"file-{n}", "filename": f"{n}.jsonl", "created_at": 0, "sgg": facts | {"sha256": f"{n}"}}
        for n in range(14)
    ]

    def shown(count):
        stored = {"training": files[-1], "validation": None}
        props = {"models": [], "files": files[:count], "stored": stored, "settings": settings}
        return part("pages/new_settings", "NewSettings", **props)

    text = shown(13)
    assert f"auto: {BATCH_SIZE}, or {BALANCED_BATCH_SIZE} where few examples are compared, or balanced" in text
    assert "Alpha grows with it" in text
    assert "the adapter is trained on them first" in text
    assert "The newest 12 files are offered" in text
    assert "quarter" not in text  # how much longer guidance takes depends on the model, and the estimate tells it
    assert "11.jsonl" in text and "12.jsonl" not in text
    assert "are offered" not in shown(12)


def test_sources_are_files_of_the_same_kind_with_several_labels_that_are_no_copies(module):
    def file(name, **facts):
        own = {"kind": "classification", "labels": ["a", "b"], "sha256": name} | facts
        return {"id": name, "sgg": own}

    training, validation = file("training"), file("validation")
    files = [
        training,
        validation,
        file("related"),
        file("copy", sha256="training"),
        file("copy of what is set aside", sha256="validation"),
        file("one label", labels=["a"]),
        file("chats", kind="chat", labels=[]),
    ]
    stored = {"training": training, "validation": validation}
    assert [each["id"] for each in module("pages/new_settings", "sourcesAmong", files, stored)] == ["related"]
    stored = {"training": file("other chats", kind="chat", labels=[]), "validation": None}
    assert [each["id"] for each in module("pages/new_settings", "sourcesAmong", files, stored)] == ["chats"]


def told(method, base="tiny", kind="classification", **hyperparameters):
    """A job, as far as the words beside its curves depend on it."""
    groups = {"task": {"type": "auto", "objective": "auto"}, "guidance": {"variant": "exact", "clip_z": 2.5}}
    chosen = groups | hyperparameters
    settings = {"id": "ftjob-1", "model": base, "status": "succeeded", "sgg": {"kind": kind}}
    return settings | {"method": {"type": method, method: {"hyperparameters": chosen}}}


CROSS_ENTROPY, CONTRAST = ({"task": {"objective": objective}} for objective in ("cross_entropy", "contrast"))


@pytest.mark.parametrize(
    ("job", "base", "compared"),
    [
        (told("sgg"), "encoder", True),
        (told("sgg"), "causal", False),
        (told("sgg"), None, False),
        (told("supervised"), "encoder", False),
        (told("supervised", **CONTRAST), "encoder", True),
        (told("sgg", **CROSS_ENTROPY), "encoder", False),
        (told("sgg", balanced_batches=False), "encoder", False),
        (told("sgg", guidance={"variant": "off"}), "encoder", False),
        (told("sgg", kind="completion"), "encoder", False),
    ],
)
def test_of_comparing_examples_is_spoken_where_an_encoder_does_it(part, job, base, compared):
    figures = {"curves": {"train_loss": {"steps": [1], "values": [2]}}, "exact": True}
    text = part("pages/job_curves", "JobCurves", job=job, figures=figures, base=base)
    assert ("trained by comparing examples" in text) == compared


def test_losses_of_different_objectives_are_told_apart(module):
    kinds = {"tiny": "causal", "small": "encoder"}
    guided, plain = told("sgg", "small"), told("supervised", "small")
    assert module("pages/compare", "mixed", [guided, plain], kinds)
    assert module("pages/compare", "mixed", [guided, told("sgg")], kinds)
    assert not module("pages/compare", "mixed", [guided, guided], kinds)
    assert not module("pages/compare", "mixed", [told("sgg"), told("supervised"), plain], kinds)


@pytest.mark.parametrize(
    ("known", "report", "settings", "words"),
    [
        ("classification", None, {}, "examples"),
        ("chat", None, {}, "tokens"),
        (None, "classification", {}, "examples"),
        (None, None, {"task": {"type": "classification"}}, "examples"),
        (None, None, {}, "tokens"),
    ],
)
def test_what_a_job_was_trained_on_is_known_without_its_file(part, known, report, settings, words):
    figures = {"curves": {"train_loss": {"steps": [1], "values": [2]}}, "exact": True}
    job = told("sgg", kind=known, **settings)
    assert f"The share of {words} " in part("pages/job_curves", "JobCurves", job=job, figures=figures, kind=report)


def test_a_limit_is_named_once_it_can_be_seen(part):
    def shown(norms):
        steps = list(range(1, len(norms) + 1))
        curves = {"train_loss": {"steps": steps, "values": norms}, "gradient_norm": {"steps": steps, "values": norms}}
        return part("pages/job_curves", "JobCurves", job=told("sgg"), figures={"curves": curves, "exact": True})

    assert "clipped above" not in shown([1.0] * 5)  # nothing is clipped before it is known what is normal
    assert "clipped above" in shown([1.0, 1.1] * 10)
    assert "clipped above" not in shown([1000.0**n for n in range(-3, 4)])  # far above all norms


@pytest.mark.parametrize(
    ("position", "expected", "told"),
    [
        (1, 0.2, ["at once", None]),
        (1, 110, ["next", "in about 1 min 50 s"]),
        (1, None, ["next", "start not known yet"]),
        (3, 110, ["after 2 jobs", "in about 1 min 50 s"]),
    ],
)
def test_a_job_that_has_to_wait_does_not_begin_at_once(module, position, expected, told):
    start = None if expected is None else {"low": 0, "expected": expected, "high": 2 * expected}
    assert module("pages/new_check", "beginning", {"position": position, "starts_in_seconds": start}) == told


@pytest.mark.parametrize(
    ("earlier", "words"),
    [
        (["paused"], "paused and resumed"),
        (["paused", "paused"], "paused and resumed"),
        (["lost"], "a worker took it up again"),
        (["paused", "preempted"], "a worker took it up again"),
    ],
)
def test_a_pause_of_ones_own_is_no_fault(module, earlier, words):
    history = [{"state": state} for state in [*earlier, "running"]]
    assert module("pages/job", "attemptsIn", history) == words


def test_an_interval_of_nothing_is_said_in_words(part):
    def shown(**found):
        comparison = {"verdict": "", **found}
        report = {"kind": "classification", "baselines": [{"name": "start", "accuracy": 1, "comparison": comparison}]}
        return part("pages/report", "Baselines", report=report)

    assert "every result is the same" in shown(difference=0, low=0, high=0)
    assert " to +10.0" in shown(difference=0, low=-0.1, high=0.1)


def test_doubts_are_words_and_no_share(module):
    assert [module("pages/report", "doubtIn", rank) for rank in (1, 0.99, 0.7)] == [
        "strong doubt",
        "strong doubt",
        "some doubt",
    ]


def findings_of(text):
    """What the server finds in a file of JSON lines."""
    with pytest.raises(DataError) as caught:
        parse_examples(text.encode(), "t.jsonl")
    return [asdict(problem) | {"place": problem.line - 1, "severity": "error"} for problem in caught.value.problems]


def test_what_cannot_be_mended_on_the_page_is_not_asked_for_without_a_way(module):
    good = [f'{{"text": "text {n}", "label": "{"ab"[n % 2]}"}}' for n in range(4)]
    bad = ['{"text": "", "label": "a"}', '{"text": 3, "label": "a"}', '{"text": "x", "lable": "a"}', '{"text": "y"}']
    text = "\n".join([*good, *bad]) + "\n"
    rows = module("examples", "read", "t.jsonl", text)
    found = module("pages/new_data", "gathered", findings_of(text), rows, ["a", "b"])
    elsewhere = "Correct it in your file and choose the file again, or remove the example."
    assert [(each["place"], elsewhere in each["said"]) for each in found] == [
        (4, True),
        (5, True),
        (6, True),
        (7, False),
    ]
    assert all(each["said"].count(elsewhere) <= 1 for each in found)
    without_labels = module("pages/new_data", "gathered", findings_of(text)[-1:], rows, ["a"])
    assert without_labels[0]["said"][-1] == elsewhere  # there is nothing to choose from


def test_a_label_with_more_examples_in_the_other_part_is_not_said_to_have_only_one(module):
    rows = [module("examples", "fresh", {"text": f"text {n}", "label": label}) for n, label in enumerate("aab")]
    only = [
        {"place": place, "reason": f"The label '{label}' has only this example."}
        for place, label in ((1, "a"), (2, "b"))
    ]
    others = [{"reason": "The label 'c' has only this example."}, {"place": 0, "reason": "The text is short."}]
    assert module("pages/new_data", "holding", rows, [*only, *others]) == [only[1], *others]


def test_what_is_not_listed_of_labels_and_warnings_is_said(part):
    rows = [{"raw": "", "value": {"text": f"text {n}", "label": f"label {n}"}} for n in range(35)]
    warning = {"line": 1, "field": None, "reason": "The text is short.", "remedy": "Write more."}
    training = {"sgg": {"warning_count": 4, "warnings": [warning]}}
    props = {"data": {"name": "t.jsonl", "rows": rows, "aside": False}, "opening": {"busy": False}}
    shown = part("pages/new_data", "NewData", stored={"training": training, "train": rows, "valid": []}, **props)
    assert "and 5 more" in shown
    assert "3 more warnings are not listed here." in shown
    training["sgg"]["warning_count"] = 1
    shown = part("pages/new_data", "NewData", stored={"training": training, "train": rows, "valid": []}, **props)
    assert "not listed here" not in shown


def test_a_file_without_examples_is_said_to_have_none(part):
    problem = {"line": None, "field": None, "reason": "The file holds no examples.", "remedy": "Write one a line."}
    data = {"name": "none.jsonl", "rows": [], "aside": False}
    opening = {"busy": False}
    shown = part("pages/new_data", "NewData", data=data, error={"problems": [problem], "rows": []}, opening=opening)
    assert "There are no examples in this file" in shown
    assert "The file holds no examples. Write one a line." in shown
    assert "cannot be used as" not in shown and "All 0 examples" not in shown


def test_of_many_labels_the_likeliest_are_told_and_the_others_together(part):
    shares = {f"label {n}": share for n, share in enumerate([0.3, *[0.1] * 6, 0.04, 0.03, 0.02, 0.01])}
    shown = part("pages/try", "Answer", title="Yours", answer={"probabilities": shares, "label": "label 0"})
    assert "label 74.0 %" in shown and "label 8" not in shown
    assert "3 other labels: 6.0 % in all" in shown
    few = part("pages/try", "Answer", title="Yours", answer={"probabilities": {"a": 0.7, "b": 0.3}, "label": "a"})
    assert "other" not in few


def test_days_that_are_no_number_make_no_key_that_lasts_for_ever(module):
    assert [module("pages/keys", "lifetime", days) for days in ("", "90", "0.5")] == [None, 90 * 86400, 43200]
    for days in ("90 days", "1,5", "0", "-1", "Infinity"):
        with pytest.raises(Error, match="a number above 0"):
            module("pages/keys", "lifetime", days)


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ("source=http://x:80", ["source", "http://x:80"]),
        ("team: support", ["team", "support"]),
        ("a:b=c", ["a", "b=c"]),
        ("team", ["", ""]),
        ("team=", ["team", ""]),
    ],
)
def test_metadata_are_parted_at_the_first_sign(module, text, pair):
    assert module("pages/jobs", "pairOf", text) == pair


def test_whole_numbers_are_labels_as_the_server_reads_them(module):
    text = "".join(f'{{"text": "text {n}", "label": {n % 3 - 1}}}\n' for n in range(30))
    log = ProblemLog()
    examples = [build_example(row, "classification", Limits(), log) for row in read_rows(text.encode(), "t.jsonl", log)]
    rows = module("examples", "read", "t.jsonl", text)
    assert [module("examples", "labelOf", row) for row in rows] == [example.label for example in examples]
    assert len(module("examples", "split", rows, 0.2)[1]) == 6
    assert module("examples", "labelOf", {"value": {"label": 1.5}}) is None


def test_the_band_is_where_the_trainer_clips(module):
    draw = random.Random(7)
    norms = [math.exp(draw.gauss(-step / 40, 0.4)) * (6 if step % 17 == 16 else 1) for step in range(120)]
    norms[30] = norms[31] = 0.0
    clip, limits = LogNormClip(2.5), []
    for norm in norms:
        limits.append(clip.threshold())
        clip.scale(norm)
    shown = [math.inf if limit is None else limit for limit in module("curves", "clippingLimits", norms, 2.5)]
    assert shown == pytest.approx(limits)
    assert any(norm > limit for norm, limit in zip(norms, limits, strict=True))


def test_curves_grow_by_what_is_new_and_take_back_what_is_done_anew(module):
    known = {"a": {"steps": [1, 2, 3], "values": [1, 2, 3]}, "b": {"steps": [2], "values": [9]}}
    came = [{"name": "a", "steps": [3, 4], "values": [30, 40]}, {"name": "b", "steps": [4], "values": [8]}]
    assert module("curves", "merge", known, came, 3) == {
        "a": {"steps": [1, 2, 3, 4], "values": [1, 2, 30, 40]},
        "b": {"steps": [2, 4], "values": [9, 8]},
    }


def test_curves_of_several_runs_are_their_means_over_the_steps_of_each(module):
    """Taken in turns, until the second one ends; a third one comes after them."""
    curves = {
        "replica": {"steps": [1, 2, 3, 4, 5, 6, 7], "values": [0, 1, 1, 0, 0, 2, 2]},
        "a": {"steps": [1, 2, 3, 4, 5, 6, 7], "values": [1, 2, 5, 3, 7, 6, 1]},
        "b": {"steps": [3, 4, 7], "values": [10, 20, 60]},
        "c": {"steps": [], "values": []},
    }
    found = module("curves", "overRuns", curves)
    assert found["runs"] == 3
    assert found["curves"]["a"] == {"steps": [1, 2, 3], "values": [3, 3, 7], "low": [1, 1, 7], "high": [6, 5, 7]}
    assert found["curves"]["b"] == {"steps": [2], "values": [30], "low": [10], "high": [60]}
    assert found["curves"]["c"]["steps"] == []
    alone = {"a": curves["a"], "replica": {"steps": [], "values": []}}
    assert module("curves", "overRuns", alone) == {"runs": 1, "curves": alone}


def a_table(draw):
    """A table as spreadsheets write them, and as people do: quotes, commas and line breaks in cells, blank lines."""
    written, mark = io.StringIO(), draw.choice(",;\t")
    writer = csv.writer(written, delimiter=mark, lineterminator=draw.choice(["\n", "\r\n"]))
    writer.writerow(["text", "label"])
    for _ in range(12):
        words = "".join(draw.choice('ab é,;"\n') for _ in range(draw.randint(1, 12))).strip() or "a"
        writer.writerow([words, draw.choice("xy")])
        written.write(draw.choice(["", "", f'5" screen{mark}x\n', "\n"]))
    return draw.choice(["", "\ufeff"]) + draw.choice(["", "\n"]) + written.getvalue()


@pytest.mark.parametrize(("name", "seed"), [(name, seed) for name in ("t.csv", "t.txt") for seed in range(8)])
def test_tables_are_read_as_the_server_reads_them(module, name, seed):
    text = a_table(random.Random(seed))
    log = ProblemLog()
    expected = [(row.line, row.fields) for row in read_rows(text.encode(), name, log)]
    assert log.problems == []
    assert [(row["line"], row["value"]) for row in module("examples", "read", name, text)] == expected


@pytest.mark.parametrize(
    "text",
    [
        'text,label\nfine,a\n"Great" service,b\n" also" , b\nbad,b\n',
        'text,label\n"I was charged twice,a\nThe app closes,b\n"Where is my parcel,a\n',
        'text,label\n"never closed,a\n',
        'text,label\nit is "so so",a\n"a ""good"" one",b\na,b,c\n',
    ],
)
def test_rows_of_tables_that_the_server_refuses_are_no_examples_here(module, text):
    log = ProblemLog()
    good = {row.line: row.fields for row in read_rows(text.encode(), "table.csv", log)}
    read = {row["line"]: row["value"] for row in module("examples", "read", "table.csv", text)}
    assert {line: value for line, value in read.items() if value is not None} == good
    assert {line for line, value in read.items() if value is None} == {problem.line for problem in log.problems}


def test_a_table_whose_header_names_a_column_twice_is_refused(module):
    with pytest.raises(Error, match='names the column "label" more than once'):
        module("examples", "read", "table.csv", "text,label,label\na,b,c\n")
    with pytest.raises(Error, match=r"2 columns without a name\. Remove these columns"):
        module("examples", "read", "table.csv", "text,label,,\na,b,,\n")


def test_the_hour_after_midnight_is_the_first(module):
    midnight = int(datetime(2026, 11, 29).astimezone().timestamp())
    assert module("format", "clock", midnight + 303) == "00:05:03"


def test_what_an_earlier_job_had_can_be_done_without(part):
    settings = {
        "model": "tiny", "method": "sgg", "suffix": "", "alignment": "", "rank": "", "seed": "", "keep": "last",
        "sources": ["file-gone"], "hyperparameters": {}, "carried": None,
        "kept": {"start_from": "ft:tiny:default::0123456789ab", "retention_file": "file-other"},
    }  # fmt: skip
    stored = {"training": {"id": "file-1", "sgg": {"kind": "classification", "sha256": "0"}}, "validation": None}
    shown = part("pages/new_settings", "NewSettings", models=[], files=[], stored=stored, settings=settings)
    assert "Begin with the weights of ft:tiny:default::0123456789ab" in shown
    assert "Measure what is forgotten on file-other" in shown
    assert "file-gonefrom the earlier job, but not among the newest files; it may have been deleted" in shown


@pytest.mark.parametrize("text", ['{"a": 1}\n\n{"b": 2}\r\n', '{"a": 1}\r{"b": 2}\r', '\ufeff{"a": "\u2028"}'])
def test_lines_are_counted_as_the_server_counts_them(module, text):
    expected = [(row.line, row.fields) for row in read_rows(text.encode(), "t.jsonl", ProblemLog())]
    assert [(row["line"], row["value"]) for row in module("examples", "read", "t.jsonl", text)] == expected


def test_a_row_of_a_table_that_does_not_fit_its_header_is_no_example(module):
    one, two = module("examples", "read", "t.csv", "text,label\nI paid, twice,bill\nright,bug\n")
    assert (one["value"], one["line"], json.loads(one["raw"])) == (None, 2, "I paid, twice,bill")
    assert two["value"] == {"text": "right", "label": "bug"}


def test_lines_are_kept_as_they_are_unless_they_are_changed(module):
    text = '{"text": "é", "label":   "a", "n": 1.0}\n\n{broken\r\n[1]\n'
    rows = module("examples", "read", "t.jsonl", text)
    assert [row["value"] is None for row in rows] == [False, True, True]
    assert module("examples", "write", rows) == '{"text": "é", "label":   "a", "n": 1.0}\n{broken\n[1]\n'


@pytest.mark.parametrize("sizes", [(10, 30), (3, 40), (2, 2), (1, 9)])
def test_a_share_of_every_label_is_set_aside_and_nothing_is_lost(module, sizes):
    labelled = [(f"{label} {n}", label) for label, size in zip("xy", sizes, strict=True) for n in range(size)]
    random.Random(3).shuffle(labelled)
    text = "".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in labelled)
    rows = module("examples", "read", "t.jsonl", text)
    train, aside = module("examples", "split", rows, 0.2)
    assert sorted(row["raw"] for row in [*train, *aside]) == sorted(row["raw"] for row in rows)
    for label, size in zip("xy", sizes, strict=True):
        taken = sum(row["value"]["label"] == label for row in aside)
        assert taken == max(0, min(round(size * 0.2), size - 2))
