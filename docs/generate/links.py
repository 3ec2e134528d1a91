"""Links as they are written, which lead through the project's tree, and as the site needs them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).parents[2]
OUTSIDE = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md", "examples/README.md": "examples.md"}
"""Pages of the site that lie outside of docs/: their path in the project, and in the site."""
LINK = re.compile(r"(\[[^\]]*\])\(([^)#\s]+)(#[^)\s]*)?\)")


def files_outside(page: Path) -> Iterator[str]:
    """Give the files outside of docs/, other than pages of the site, that a page links to."""
    for _, target, _ in LINK.findall(page.read_text()):
        path = _in_project(page.relative_to(ROOT), target)
        if path is not None and (ROOT / path).is_file() and place_of(path).startswith("source/"):
            yield path


def place_of(path: str) -> str:
    """Where a file of the project is in the site; folders are found by their README."""
    if (ROOT / path).is_dir():
        path += "/README.md"
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    if path == "README.md":
        return "index.md"
    return OUTSIDE.get(path) or f"source/{path}"


def rewritten(markdown: str, origin: Path, place: str) -> str:
    """Return a page's Markdown with its links as the site needs them. `origin` is its path in the project.

    A folder without a page in the site cannot be linked to: its name stays, and the link goes.
    """

    def link(found: re.Match[str]) -> str:
        text, target, anchor = found[1], found[2], found[3] or ""
        path = _in_project(origin, target)
        if path is None:
            return found[0]
        to = place_of(path)
        if not (ROOT / path).is_file() and not (ROOT / path / "README.md").is_file():
            return text[1:-1]
        return f"{text}({os.path.relpath(to, PurePosixPath(place).parent)}{anchor})"

    return LINK.sub(link, markdown)


def _in_project(origin: Path, target: str) -> str | None:
    """Return a link's target as a path in the project, or None if it leads out of it or to nothing."""
    if ":" in target:
        return None
    path = os.path.normpath(origin.parent / target)
    return path if (ROOT / path).exists() else None
