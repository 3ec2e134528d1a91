"""The dashboard's own files. Their addresses hold a digest of all of them, so that browsers may keep them."""

from __future__ import annotations

import functools
import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

WEB = Path(__file__).parent / "web"
TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
HEADERS: Mapping[str, str] = {
    "content-security-policy": CSP,
    "cross-origin-opener-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


@dataclass(frozen=True, slots=True)
class WebFile:
    """One file as it is sent."""

    content: bytes
    zipped: bytes
    media_type: str


@dataclass(frozen=True, slots=True)
class WebFiles:
    """The page, and the files that it loads by their paths below /dashboard/{version}/."""

    version: str
    page: WebFile
    files: Mapping[str, WebFile]


@functools.cache
def web_files() -> WebFiles:
    """Read all of them."""
    contents = {
        path.relative_to(WEB).as_posix(): path.read_bytes()
        for path in sorted(WEB.rglob("*"))
        if path.suffix in TYPES and path.is_file()
    }
    digest = hashlib.sha256()
    for name, content in contents.items():
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    version = digest.hexdigest()[:16]
    page = contents.pop("index.html").replace(b"{version}", version.encode())
    return WebFiles(version, _file("index.html", page), {name: _file(name, each) for name, each in contents.items()})


def _file(name: str, content: bytes) -> WebFile:
    return WebFile(content, gzip.compress(content, 6, mtime=0), TYPES[Path(name).suffix])
