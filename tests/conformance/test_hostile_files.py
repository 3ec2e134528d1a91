"""Data files broken in hundreds of ways: each is taken, or refused with a reason that names lines, and soon."""

from __future__ import annotations

import json
import os
import random
import time
from pathlib import Path

import pytest

from api.testing import ApiServer

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.*.jsonl"))
COUNT = int(os.environ.get("SGG_CONFORMANCE_FILES", "60"))
SECONDS = 2.0
MOST_BYTES = 2**20
HOSTILE = (
    b"\x00",
    b"\xff\xfe",
    b"\xc3\x28",
    b"\xed\xa0\x80",
    b"\\ud800",
    b"\\u0000",
    b"NaN",
    b"1e999",
    b"[" * 5000,
    b'{"a":' * 5000,
    b'"' + b"x" * 200_000 + b'"',
    b"9" * 6000,
    b"\r",
    b"\xe2\x80\xa8",
    b"\n\n\n",
    b"}{",
    b'"label": "=cmd()", ',
    b'"label": null, ',
    b'"text": 5, ',
    b'"text": "", ',
    b"'",
    b",",
    b"\\",
    b"<|im_end|>",
    b"../../etc/passwd",
    b"\xf0\x9f\x92\xa3" * 50,
    b"PK\x03\x04",
    b"\x1f\x8b\x08",
)


def mutated(seed: int) -> bytes:
    """One of the example files with one to four things done to it."""
    chance = random.Random(seed)
    content = chance.choice(EXAMPLES).read_bytes()
    for _ in range(chance.randint(1, 4)):
        content = mutation(content, chance)[:MOST_BYTES]
    return content


def mutation(content: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(len(content) + 1)
    lines = content.splitlines(keepends=True) or [b""]
    row = chance.randrange(len(lines))
    kind = chance.randrange(9)
    if kind == 0:
        return content[:place] + chance.choice(HOSTILE) + content[place:]
    if kind == 1:
        return content[:place]
    if kind == 2:
        return content[:place] + content[place + chance.randint(1, 40) :]
    if kind == 3:
        return content[:place] + chance.randbytes(chance.randint(1, 30)) + content[place:]
    if kind == 4:
        return b"".join([*lines[:row], chance.choice(HOSTILE) + b"\n", *lines[row:]])
    if kind == 5:
        return b"".join([*lines[:row], lines[row] * chance.choice((2, 200)), *lines[row:]])
    if kind == 6:
        return content.decode("utf-8", "replace").encode(
            chance.choice(("utf-16", "latin-1", "utf-32", "utf-8-sig")), "replace"
        )
    if kind == 7:
        return b"".join([*lines[:row], odd_row(chance), *lines[row + 1 :]])
    return content.replace(
        chance.choice((b'"', b":", b"{", b"\n", b"text", b"label", b"role")), chance.choice(HOSTILE[:24])
    )


def odd_row(chance: random.Random) -> bytes:
    value = chance.choice((None, True, 1.5, [], {}, [[]], "x" * 30_000, "\x00", "\ud800", -1, {"text": {}}))
    key = chance.choice(("text", "label", "messages", "prompt", "completion", "weight", "__proto__", "x" * 3000))
    return json.dumps({key: value, "label": chance.choice(("a", 1, None))}).encode() + b"\n"


@pytest.mark.timeout(1200)
def test_every_broken_file_is_taken_or_refused_line_by_line_and_soon(server: ApiServer) -> None:
    refused = 0
    with server.http() as http:
        for seed in range(COUNT):
            content = mutated(seed)
            files = {"file": (f"hostile-{seed}.jsonl", content)}
            began, used = time.perf_counter(), time.thread_time()
            answer = http.post("/v1/files", data={"purpose": "fine-tune"}, files=files)
            took = time.perf_counter() - began
            assert answer.status_code in (200, 400, 413), (seed, answer.text[:500])
            assert took < SECONDS, (seed, took, used, len(content))
            if answer.status_code == 200:
                continue
            refused += 1
            error = answer.json()["error"]
            assert error["code"] in ("invalid_file", "request_too_large"), (seed, error)
            problems = error["sgg"]["problems"]
            assert problems and all(problem["reason"] and problem["remedy"] for problem in problems), (seed, error)
            if content.strip():
                assert all(problem["line"] for problem in problems) or len(problems) == 1, (seed, error)
    assert refused > COUNT / 2
