"""The dashboard's own arithmetic, held to second answers: clipping limits, curves that grow, files that are split.

And what its parts do by themselves: what is read again and when, what is sent and shown.
"""

import csv
import io
import json
import math
import random

import pytest
from playwright.sync_api import Error

from sgg_core.card import MOST_CONFUSED
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
    files = [
        {"id": f"file-{n}", "filename": f"{n}.jsonl", "created_at": 0, "sgg": {"kind": "chat", "examples": 9}}
        for n in range(14)
    ]

    def shown(count):
        stored = {"training": files[-1], "validation": None}
        props = {"models": [], "files": files[:count], "stored": stored, "settings": settings}
        return part("pages/new_settings", "NewSettings", **props)

    text = shown(13)
    assert f"auto: {BALANCED_BATCH_SIZE} where each step holds as many of each label, otherwise {BATCH_SIZE}" in text
    assert "Alpha grows with it" in text
    assert "the adapter is trained on them first" in text
    assert "The newest 12 files are offered" in text
    assert "11.jsonl" in text and "12.jsonl" not in text
    assert "are offered" not in shown(12)


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
    written = io.StringIO()
    writer = csv.writer(written, lineterminator=draw.choice(["\n", "\r\n"]))
    writer.writerow(["text", "label"])
    for _ in range(12):
        words = "".join(draw.choice('ab é,"\n') for _ in range(draw.randint(1, 12))).strip() or "a"
        writer.writerow([words, draw.choice("xy")])
        written.write(draw.choice(["", "", '5" screen,x\n', "\n"]))
    return draw.choice(["", "\ufeff"]) + written.getvalue()


@pytest.mark.parametrize(("name", "seed"), [(name, seed) for name in ("t.csv", "t.txt") for seed in range(8)])
def test_tables_are_read_as_the_server_reads_them(module, name, seed):
    text = a_table(random.Random(seed))
    log = ProblemLog()
    expected = [(row.line, row.fields) for row in read_rows(text.encode(), name, log)]
    assert log.problems == []
    assert [(row["line"], row["value"]) for row in module("examples", "read", name, text)] == expected


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
