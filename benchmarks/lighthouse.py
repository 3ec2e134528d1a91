"""Lighthouse's scores of the dashboard's sign-in page and page of jobs: `python -m benchmarks.lighthouse LIGHTHOUSE`.

Runs a server of its own on an empty data directory, and asks nothing but that server. LIGHTHOUSE is the program npm
installed (see `make lighthouse`); Chromium is SGG_TEST_CHROMIUM, or `chromium` on the PATH. Exits with 1 if a score of
Lighthouse's (0 to 1, desktop preset) is below LEAST.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import Any

from docs.generate.screenshots import served

LEAST = 0.9
CATEGORIES = ("performance", "accessibility", "best-practices")
LIMIT = 180  # seconds for one page


def scores(lighthouse: str, chromium: str, url: str) -> dict[str, float]:
    """What Lighthouse gives a page, by category."""
    command = [
        lighthouse,
        url,
        "--quiet",
        "--preset=desktop",
        "--output=json",
        "--chrome-flags=--headless=new --no-sandbox",
    ]
    command.append(f"--only-categories={','.join(CATEGORIES)}")
    environment = os.environ | {"CHROME_PATH": chromium}
    run = subprocess.run(command, stdout=subprocess.PIPE, env=environment, timeout=LIMIT, check=True)
    report: dict[str, Any] = json.loads(run.stdout)
    if "runtimeError" in report:
        sys.exit(f"Lighthouse could not look at the page: {report['runtimeError']['message']}")
    return {name: report["categories"][name]["score"] for name in CATEGORIES}


def main() -> None:
    """Measure both pages, and print a line for each."""
    chromium = os.environ.get("SGG_TEST_CHROMIUM") or shutil.which("chromium")
    if len(sys.argv) != 2 or chromium is None:
        sys.exit("Run `make lighthouse`, with Chromium installed (`apt-get install chromium`).")
    with served() as server:
        pages = {"sign-in": f"{server['url'].removesuffix('/v1')}/", "jobs": server["dashboard"]}
        found = {name: scores(sys.argv[1], chromium, url) for name, url in pages.items()}
    for name, each in found.items():
        print(f"{name:8}", "  ".join(f"{category} {score:.2f}" for category, score in each.items()))
    if min(score for each in found.values() for score in each.values()) < LEAST:
        sys.exit(f"A score is below {LEAST}.")


if __name__ == "__main__":
    main()
