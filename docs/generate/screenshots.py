"""`python -m docs.generate.screenshots`: walk from a file to a tried adapter in Chromium, and picture every step of it.

Needs Chromium (SGG_TEST_CHROMIUM, or `chromium` on the PATH), playwright and pillow. Writes docs/dashboard/*.png.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

ROOT = Path(__file__).parents[2]
TARGET = ROOT / "docs" / "dashboard"
EXAMPLES = ROOT / "examples" / "support_tickets.train.jsonl"
SIZE = {"width": 1180, "height": 780}
PHONE = {"width": 390, "height": 780}
PATIENCE_MS = 1_200_000  # the report trains its baselines, which takes minutes on a busy machine
COLOURS = 160  # a palette keeps the pictures small


@contextmanager
def served() -> Iterator[dict[str, Any]]:
    """Run `sgg serve` on a directory of its own, and give its announcement."""
    with tempfile.TemporaryDirectory() as directory:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("SGG_")}
        environment = kept | {"SGG_DATA_DIR": directory, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "cli.main", "serve", "--port", "0", "--json"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment) as server:
            assert server.stdout is not None
            try:
                yield json.loads(server.stdout.readline())
            finally:
                server.terminate()


def picture(page: Page, name: str) -> None:
    """Save what the browser shows."""
    page.wait_for_timeout(400)  # for bars that grow
    path = TARGET / f"{name}.png"
    page.screenshot(path=path)
    Image.open(path).convert("RGB").quantize(COLOURS).save(path, optimize=True)


def walk(page: Page, link: str) -> None:
    """Go from the link that the server printed to an answer of the adapter."""
    page.goto(link)
    page.get_by_role("link", name="New job").first.click()
    expect(page.get_by_text("Drop a file here")).to_be_visible()
    picture(page, "1-new-job")
    lines = EXAMPLES.read_text().splitlines()
    with tempfile.TemporaryDirectory() as directory:
        brought = Path(directory) / "support_tickets.jsonl"
        brought.write_text("\n".join([*lines, lines[4], lines[11]]) + "\n")
        page.get_by_label("Drop a file here").set_input_files(brought)
        page.get_by_role("button", name="Remove all 2").wait_for()
        page.locator(".bone").first.wait_for(state="detached")
        picture(page, "2-findings")
        page.get_by_role("button", name="Remove all 2").click()
        page.get_by_role("button", name="Save the changes").click()
    page.locator("label.choice", has_text="all-minilm").click()
    start = page.get_by_role("button", name="Start the training")
    page.locator(".facts").wait_for()
    start.scroll_into_view_if_needed()
    picture(page, "3-estimate")
    start.click()
    loss = page.get_by_role("img", name=re.compile("^Loss"))
    expect(loss).to_have_attribute("data-points", re.compile(r"^([2-9]\d|\d{3,})$"))
    picture(page, "4-live")
    expect(page.locator(".head .badge")).to_have_text("Succeeded")
    expect(page.get_by_text("What it is worth")).to_be_visible()
    page.evaluate("scrollTo(0, 0)")
    picture(page, "5-result")
    page.get_by_role("link", name="Try it", exact=True).last.click()
    page.get_by_label("A sentence").fill("I was charged twice this month")
    page.get_by_role("button", name="Ask", exact=True).click()
    page.locator(".answers").first.wait_for()
    picture(page, "6-try-it")


def main() -> None:
    """Make all pictures."""
    chromium = os.environ.get("SGG_TEST_CHROMIUM") or shutil.which("chromium")
    if chromium is None:
        sys.exit("Chromium is not installed. Run `apt-get install chromium`, or set SGG_TEST_CHROMIUM to its path.")
    TARGET.mkdir(exist_ok=True)
    with served() as server, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        context = browser.new_context(viewport=SIZE, color_scheme="light")
        context.set_default_timeout(PATIENCE_MS)
        expect.set_options(timeout=PATIENCE_MS)
        page = context.new_page()
        walk(page, server["dashboard"])
        state = context.storage_state()
        origin = server["url"].removesuffix("/v1")
        dark = browser.new_context(viewport=PHONE, color_scheme="dark", storage_state=state).new_page()
        dark.goto(f"{origin}/#/jobs")
        dark.locator(".job a").first.click()
        expect(dark.locator(".head .badge")).to_have_text("Succeeded")
        dark.locator(".chart").first.evaluate("chart => scrollTo(0, chart.getBoundingClientRect().top + scrollY - 64)")
        picture(dark, "7-phone")
        browser.close()


if __name__ == "__main__":
    main()
