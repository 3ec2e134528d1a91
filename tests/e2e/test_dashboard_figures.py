"""How quick and how light the dashboard is, held to what is promised. Clocks are watched, so these tests run alone.

What is promised has to hold in one of a few tries: other programs on the machine may spoil one, but a dashboard that is
too slow fails in all.
"""

import itertools
import re
import statistics
import time

import httpx
import pytest
from playwright.sync_api import expect

from tests.e2e.browsing import opened, origin, show, sign_in
from worker.settings import WorkerSettings

POINTS = 10_000
REDRAW = """async ([address, points]) => {
    const { Chart } = await import(address + "charts.js");
    const { html, render } = await import(address + "core.js");
    const place = document.createElement("div");
    document.querySelector("main").append(place);
    const steps = Array.from({length: points}, (_, index) => index + 1);
    const took = [];
    for (let turn = 0; turn < 7; turn += 1) {
        const values = steps.map((step) => Math.sin(step / 300 + turn) + Math.random());
        const began = performance.now();
        render(html`<${Chart} title="Loss" text="" series=${[{label: "training", steps, values}]} />`, place);
        await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
        took.push(performance.now() - began);
    }
    place.remove();
    return took;
}"""


pytestmark = pytest.mark.figures
TRIES = 3


def held(measure, limit):
    """Whether the seconds that `measure()` gives are under the limit in one of a few tries."""
    return any(measure() < limit for _ in range(TRIES))


def test_the_first_byte_comes_within_a_tenth_of_a_second(service):
    deadline = time.monotonic() + 60
    while service.http.get(f"{origin(service)}/health/ready").status_code != 200 and time.monotonic() < deadline:
        time.sleep(0.2)  # the worker's imports take a core

    def measure():
        took = []
        for _ in range(9):
            began = time.perf_counter()
            with httpx.stream("GET", f"{origin(service)}/"):
                took.append(time.perf_counter() - began)
        print(f"first byte: {statistics.median(took) * 1000:.0f} ms, at most {max(took) * 1000:.0f}")
        return statistics.median(took)

    assert held(measure, 0.1)


def test_the_page_weighs_less_than_400_kilobytes(browser, service):
    with opened(browser) as page:
        weights = {}
        page.on("response", lambda answer: weights.setdefault(answer.url, answer))
        sign_in(page, service)
        page.wait_for_load_state("networkidle")
        unpacked = sum(len(answer.body()) for url, answer in weights.items() if answer.status == 200)
    print(f"page weight: {unpacked} bytes unpacked, in {len(weights)} requests")
    assert unpacked < 400_000


def test_ten_thousand_points_are_redrawn_within_a_tenth_of_a_second(browser, service):
    with opened(browser) as page:
        sign_in(page, service)
        address = page.evaluate("document.querySelector('script[type=module]').src").removesuffix("app.js")

        def measure():
            _, *took = page.evaluate(REDRAW, [address, POINTS])  # without the first, which makes the chart
            print("redraw in ms:", [round(each) for each in took])
            return max(took) / 1000

        assert held(measure, 0.1)


def test_a_step_is_on_the_screen_within_a_second(browser, scripted):
    with opened(browser) as page:
        job_id = scripted.server.job_id()
        worker = scripted.server.claim(job_id)
        worker.step(1)
        sign_in(page, scripted)
        show(page, scripted, f"jobs/{job_id}")
        plot = page.get_by_role("img", name=re.compile("^Loss"))
        steps = itertools.count(2)

        def measure():
            seconds = []
            for step in itertools.islice(steps, 8):
                began = time.perf_counter()
                worker.step(step)
                expect(plot).to_have_attribute("data-points", str(step))
                seconds.append(time.perf_counter() - began)
            print("from the database to the screen:", [round(each, 2) for each in seconds])
            return max(seconds)

        collected = WorkerSettings().flush_seconds  # a worker collects figures for that long at most
        assert held(measure, 1.0 - collected)
        worker.fail("internal_error", "The end.")
