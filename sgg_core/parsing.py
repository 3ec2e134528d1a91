"""From the bytes of a JSONL or CSV file to rows with true line numbers, in one pass, with every problem on the way."""

from __future__ import annotations

import codecs
import csv
import json
import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import PurePath
from typing import NoReturn

from sgg_core.errors import Problem

MAX_PROBLEMS = 1_000
ALIEN_ROWS = 3  # with which a file begins that is no JSONL: of the others nothing more would be told
MAX_ROW_BYTES = 2 * 2**20
MAX_CELL_CHARS = csv.field_size_limit()  # a setting of the whole process, so it is read and never changed
EXCERPT_LENGTH = 40

ENDINGS = (".jsonl", ".ndjson", ".json", ".csv")

NOT_TEXT = {
    b"PK\x03\x04": "a zip archive or an Excel workbook",
    b"\x1f\x8b": "a gzip archive",
    b"PAR1": "a Parquet file",
    b"%PDF": "a PDF document",
    codecs.BOM_UTF16_LE: "text in UTF-16",
    codecs.BOM_UTF16_BE: "text in UTF-16",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a file: its fields by name, and the lines (from 1) on which it starts and its names stand.

    The names of a JSONL row stand on the row's own line, those of a CSV row in the header. CSV fields are always text.
    """

    line: int
    names_line: int
    fields: dict[str, object]


@dataclass
class ProblemLog:
    """Collects the problems of one file, up to `MAX_PROBLEMS`. `guessed` if it is read as CSV for want of a hint."""

    problems: list[Problem] = field(default_factory=list)
    guessed: bool = False

    @property
    def full(self) -> bool:
        """Whether no further problem will be kept, so that reading on is of no use."""
        return len(self.problems) >= MAX_PROBLEMS

    def add(self, line: int | None, field: str | None, reason: str, remedy: str) -> None:
        """Note one problem."""
        if not self.full:
            self.problems.append(Problem(line, field, reason, remedy))


def read_rows(content: bytes, filename: str, log: ProblemLog) -> Iterator[Row]:
    """Yield the rows of a JSONL or CSV file one at a time; what cannot be read goes to `log` instead.

    The ending of `filename` decides between the formats (.csv, or .jsonl, .ndjson and .json); with any other ending,
    a file that begins with `{` or `[` is JSONL. CSV is separated by commas, or by semicolons or tabs where its header
    has no comma. UTF-8 with or without BOM, lines ending in LF or CRLF, or in CR alone.
    """
    if (name := _no_text(content)) is not None:
        log.add(None, None, f"This is {name}, not UTF-8 text.", "Save or export it as JSONL or CSV in UTF-8.")
        return
    is_csv = _is_csv(content, filename)
    if not is_csv and _first_mark(content) == b"[":
        into = shlex.quote(filename), shlex.quote(f"{filename}.jsonl")
        remedy = f"Write each object on a line of its own: jq -c '.[]' {into[0]} > {into[1]}"
        log.add(None, None, "The file is one JSON array, not one JSON object per line.", remedy)
        return
    if b"\n" not in content:
        content = content.replace(b"\r", b"\n")  # spreadsheets on a Mac still write CR alone
    lines = _decoded_lines(content, log)
    log.guessed = is_csv and not _tells_format(filename)
    yield from _csv_rows(lines, log) if is_csv else _jsonl_rows(lines, log)


def excerpt(value: object) -> str:
    """A short, printable form of a user's value for an error message: texts in quotes, others as JSON writes them."""
    if isinstance(value, str):
        text, end = f"'{value}'" if value.isprintable() else ascii(value), "...'"
    else:
        text, end = json.dumps(value, default=repr), "..."
    return text if len(text) <= EXCERPT_LENGTH else text[: EXCERPT_LENGTH - len(end)] + end


def _no_text(content: bytes) -> str | None:
    """What a file is instead of UTF-8 text, as far as its beginning tells; UTF-16 need not begin with a mark."""
    if (content[:4:2] == b"\0\0") != (content[1:4:2] == b"\0\0"):
        return "text in UTF-16"
    return next((name for signature, name in NOT_TEXT.items() if content.startswith(signature)), None)


def _tells_format(filename: str) -> bool:
    return PurePath(filename).suffix.lower() in ENDINGS


def _is_csv(content: bytes, filename: str) -> bool:
    if _tells_format(filename):
        return PurePath(filename).suffix.lower() == ".csv"
    return _first_mark(content) not in (b"{", b"[")


def _first_mark(content: bytes) -> bytes:
    """The first character that is no space, as far as it stands near the beginning."""
    return content[:1024].removeprefix(codecs.BOM_UTF8).lstrip()[:1]


def _decoded_lines(content: bytes, log: ProblemLog) -> Iterator[tuple[int, str]]:
    """Yield (number from 1, text without its line ending). Splits at LF only: U+2028 is legal inside JSON strings."""
    start = len(codecs.BOM_UTF8) if content.startswith(codecs.BOM_UTF8) else 0
    number = 0
    while start < len(content):
        number += 1
        newline = content.find(b"\n", start)
        end = len(content) if newline < 0 else newline
        if end - start > MAX_ROW_BYTES:
            log.add(
                number,
                None,
                f"The line has {end - start:,} bytes; the limit is {MAX_ROW_BYTES:,}.",
                "Write one example per line, and shorten or split this one.",
            )
            yield number, ""
        else:
            yield number, _decoded(content[start:end].removesuffix(b"\r"), number, start, log)
        start = end + 1


def _decoded(line: bytes, number: int, offset: int, log: ProblemLog) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        log.add(
            number,
            None,
            f"Byte 0x{line[error.start]:02x} at offset {offset + error.start:,} of the file is not valid UTF-8.",
            "Save the file in the encoding UTF-8 (e.g. `iconv -f WINDOWS-1252 -t UTF-8`).",
        )
        return line.decode(errors="replace")


def _jsonl_rows(lines: Iterator[tuple[int, str]], log: ProblemLog) -> Iterator[Row]:
    rows = alien = 0
    for number, text in lines:
        if log.full or rows == alien == ALIEN_ROWS:
            return
        if not text.strip():
            continue
        rows += 1
        alien += not text.lstrip().startswith(("{", "[", "}", "]"))
        try:
            fields = json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_refuse_constant)
        except RecursionError:
            log.add(number, None, "The JSON is nested too deeply.", "Write one flat JSON object per line.")
        except ValueError as error:
            log.add(number, None, f"This is not valid JSON: {_reason(error)}.", _json_remedy(text))
        else:
            if isinstance(fields, dict):
                yield Row(number, number, fields)
            else:
                log.add(
                    number,
                    None,
                    f"The line holds {excerpt(fields)}, not a JSON object.",
                    'Write one JSON object per line, such as {"text": "...", "label": "..."}.',
                )


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Build the object, and refuse one that names a key twice, since one of the values would be lost silently."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"the key {excerpt(twice)} occurs twice in one object")
    return fields


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON value")


def _reason(error: ValueError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg.removesuffix(' at')} at column {error.colno}"
    return str(error)


def _json_remedy(text: str) -> str:
    if text.strip() in ("{", "[", "}", "]") or text.lstrip().startswith("["):
        return "Write each JSON object on a single line, without a list around them and without line breaks inside."
    if text.lstrip().startswith(("{'", "{ '")):
        return 'Put keys and texts in double quotes: {"text": "..."}.'
    if not text.lstrip().startswith("{"):
        return "Write one JSON object per line; if the file is CSV, give its name the ending .csv."
    return "Write one complete JSON object per line; a JSON library does the quoting for you."


def _csv_rows(lines: Iterator[tuple[int, str]], log: ProblemLog) -> Iterator[Row]:
    header: list[str] | None = None
    header_line = 0
    for line, cells in _csv_records(lines, log):
        if header is None:
            header_line = line
            header = _checked_header(line, [cell.strip() for cell in cells], log)
            if header is None:
                return
        elif len(cells) == len(header):
            yield Row(line, header_line, dict(zip(header, cells, strict=True)))
        else:
            log.add(
                line,
                None,
                f"The row has {len(cells)} column(s), the header has {len(header)}.",
                "Put fields that contain the separator or line breaks in double quotes.",
            )


def _csv_records(lines: Iterator[tuple[int, str]], log: ProblemLog) -> Iterator[tuple[int, list[str]]]:
    """Yield (line on which the record starts, cells), leaving out blank lines."""
    texts = (text + "\n" for _, text in lines)
    first: list[str] = []  # up to the header
    for text in texts:
        first.append(text)
        if text.strip():
            break
    reader = csv.reader(chain(first, texts), delimiter=_delimiter("".join(first)), strict=True)
    while not log.full:
        start = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            too_long = "field limit" in str(error)
            if too_long:
                reason = f"A field is longer than {MAX_CELL_CHARS:,} characters, or its closing quote is missing."
            else:
                reason = f"The quotes of the row that starts here are wrong: {error}."
            log.add(start, None, reason, 'Quote a field as "...", and write a quote inside it twice: "".')
            if too_long:  # what follows would be read from the middle of that field
                return
        else:
            if cells:
                yield start, cells


def _delimiter(header: str) -> str:
    """Commas; where the header has none, the semicolons or tabs of spreadsheets in other countries."""
    return next((mark for mark in ",;\t" if mark in header), ",")


def _checked_header(line: int, header: list[str], log: ProblemLog) -> list[str] | None:
    if header[0].startswith("{"):
        log.add(
            line,
            None,
            "This is a JSON object, but the file's name says CSV.",
            "Give the file's name the ending .jsonl.",
        )
        return None
    name, count = Counter(header).most_common(1)[0]
    if count > 1 and not name:
        log.add(line, None, f"The header has {count} columns without a name.", "Remove these columns.")
        return None
    if count > 1:
        log.add(line, name, "The header names this column more than once.", "Give every column its own name.")
        return None
    return header
