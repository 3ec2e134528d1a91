"""A real Chromium that looks at the dashboard of a running service."""

import json
import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import expect, sync_playwright

AXE = Path(__file__).parent / "vendor" / "axe.min.js"
PHONE = {"width": 360, "height": 740}  # a narrow one
PATIENCE_MS = 90_000  # the server itself gives a trial 60 s, in which its process may have to start
expect.set_options(timeout=PATIENCE_MS)


def chromium_path():
    """Where Debian's Chromium is; skips the test, or fails it in CI, where there is none."""
    found = os.environ.get("SGG_TEST_CHROMIUM") or shutil.which("chromium")
    if found is None:
        message = "Chromium is not installed. Run `apt-get install chromium`, or set SGG_TEST_CHROMIUM to its path."
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    return found


@contextmanager
def chromium():
    """A browser without windows."""
    path = chromium_path()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def opened(browser, **options):
    """A page of a fresh profile. Fails if the page itself had an error, or if anything broke its rules on content."""
    context = browser.new_context(accept_downloads=True, **options)
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    problems = []
    page.on("pageerror", lambda error: problems.append(error.stack or str(error)))
    page.on("console", lambda said: problems.append(said.text) if "Content Security Policy" in said.text else None)
    try:
        yield page
    except BaseException as failure:
        failure.add_note("\n".join(["The page had these errors:", *problems]) if problems else "The page had no error.")
        raise
    finally:
        context.close()
    assert not problems, "\n".join(["The page had these errors:", *problems])


def origin(service):
    """The address of the dashboard."""
    return service.url.removesuffix("/v1")


def api(service):
    """A client of the administrator's, to look behind what the page shows."""
    key = (service.data_dir / "admin-key").read_text().strip()
    return httpx.Client(base_url=service.url, headers={"Authorization": f"Bearer {key}"}, trust_env=False, timeout=60)


def sign_in(page, service, key=None):
    """Sign in with a key, by default the administrator's."""
    page.goto(f"{origin(service)}/")
    page.get_by_label("API key").fill(key or (service.data_dir / "admin-key").read_text().strip())
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name="Jobs", exact=True)).to_be_visible()


def show(page, service, place):
    """Go to a page of the dashboard."""
    page.goto(f"{origin(service)}/#/{place}")
    expect(page.locator("h1")).to_be_visible()
    expect(page.locator(".bone")).to_have_count(0)


def too_wide(page):
    """What scrolls sideways: the page itself, or a table in it."""
    return page.evaluate(
        """() => [document.documentElement, ...document.querySelectorAll(".table")]
            .filter((part) => part.scrollWidth > part.clientWidth)
            .map((part) => part.getAttribute("aria-label") || "the page")"""
    )


def violations(page):
    """What axe-core finds to be a problem for people with assistive technology, grave or not."""
    page.evaluate(AXE.read_text() + "; null")
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    return [f"{each['id']}: {json.dumps([node['html'][:160] for node in each['nodes'][:3]])}" for each in found]
