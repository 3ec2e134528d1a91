"""The texts of some lines of a training file, without reading all of it into objects."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from api.jobs.examples import wanted_lines
from sgg_core.parsing import ProblemLog, read_rows


def chunks(content: bytes, size: int) -> Iterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]


def texts(content: bytes, wanted: set[int]) -> dict[int, object]:
    return {row.line: row.fields["text"] for row in read_rows(content, "x.jsonl", ProblemLog()) if row.line in wanted}


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize("head", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("wanted", [{1}, {2, 5}, {6}, {1, 4, 6}])
def test_wanted_lines_read_as_they_do_in_the_whole_file(end: bytes, size: int, head: bytes, wanted: set[int]) -> None:
    content = head + end.join(b'{"text": "%d"}' % number if number != 3 else b"" for number in range(1, 7))
    for whole in (content, content + end):
        found = texts(wanted_lines(chunks(whole, size), wanted), wanted)
        assert found == texts(whole, wanted) == {number: str(number) for number in wanted}


def test_nothing_is_read_after_the_last_line_that_is_wanted_and_little_is_kept() -> None:
    read = []

    def told() -> Iterator[bytes]:
        for number in range(1000):
            read.append(number)
            yield b"x" * 1000 + b"\n"

    kept = wanted_lines(told(), {10})
    assert len(read) == 10 and len(kept) < 1100
