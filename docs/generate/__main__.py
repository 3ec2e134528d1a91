"""`python -m docs.generate DIRECTORY`: write the pages that the site is built from into a directory, anew.

A line `<!-- generated: NAME -->` in a page becomes what the generator of that name makes of the code. Links that lead
through the project's tree become links within the site, which carries every file that it links to.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

from docs.generate import codes, commands, http, links

DOCS = links.ROOT / "docs"
GENERATORS = {
    "commands": commands.reference,
    "job failures": codes.job_failures,
    "refusals": codes.refusals,
    "routes": http.routes,
    "http": http.reference,
}
PLACE = re.compile(r"^<!-- generated: ([a-z ]+) -->$", re.MULTILINE)
NOT_PAGES = ("generate", "__pycache__")


def generate(target: Path) -> None:
    """Write everything. Raises KeyError for a generated part that no generator has."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(DOCS, target, ignore=shutil.ignore_patterns(*NOT_PAGES))
    pages = {path.relative_to(target).as_posix(): DOCS / path.relative_to(target) for path in target.rglob("*.md")}
    pages |= {place: links.ROOT / source for source, place in links.OUTSIDE.items()}
    for place, source in pages.items():
        filled = PLACE.sub(lambda found: GENERATORS[found[1]](), source.read_text())
        (target / place).write_text(links.rewritten(filled, source.relative_to(links.ROOT), place))
    for path in {path for source in pages.values() for path in links.files_outside(source)}:
        (target / "source" / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(links.ROOT / path, target / "source" / path)


if __name__ == "__main__":
    generate(Path(sys.argv[1]))
