"""Reading bytes into rows: true line numbers, encodings, broken syntax, and bounded work."""

import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sgg_core.parsing import MAX_PROBLEMS, MAX_ROW_BYTES, ProblemLog, excerpt, read_rows


def rows_of(content: bytes, filename: str):
    log = ProblemLog()
    return list(read_rows(content, filename, log)), log.problems


def only_problem(content: bytes, filename: str):
    _, problems = rows_of(content, filename)
    assert len(problems) == 1, problems
    assert problems[0].reason and problems[0].remedy
    return problems[0]


texts = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\r"), max_size=30)


@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=8), st.booleans(), st.booleans())
def test_csv_rows_and_their_lines_survive_quotes_commas_and_newlines(pairs, crlf, bom):
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerow(["text", "label"])
    starts = []
    for pair in pairs:
        starts.append(buffer.getvalue().count("\n") + 1)
        writer.writerow(pair)
    document = buffer.getvalue().replace("\n", "\r\n") if crlf else buffer.getvalue()
    content = (b"\xef\xbb\xbf" if bom else b"") + document.encode()
    rows, problems = rows_of(content, "data.csv")
    assert problems == []
    assert [(row.fields["text"], row.fields["label"]) for row in rows] == pairs
    assert [row.line for row in rows] == starts
    assert {row.names_line for row in rows} == {1}


@given(
    st.lists(st.dictionaries(texts, texts, max_size=3), max_size=8),
    st.sampled_from([b"\n", b"\r\n", b"\n\n"]),
    st.booleans(),
)
def test_jsonl_rows_survive_every_line_ending_and_a_bom(objects, ending, bom):
    lines = [json.dumps(fields, ensure_ascii=False).encode() for fields in objects]
    rows, problems = rows_of((b"\xef\xbb\xbf" if bom else b"") + ending.join(lines), "data.jsonl")
    assert problems == []
    assert [row.fields for row in rows] == objects
    assert [row.line for row in rows] == [1 + index * ending.count(b"\n") for index in range(len(objects))]


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_lines_may_end_in_cr_alone(bom):
    rows, problems = rows_of(bom + b'text,label\r"a, b",x\r\rc,y\r', "data.csv")
    assert problems == []
    assert [(row.line, row.fields["text"]) for row in rows] == [(2, "a, b"), (4, "c")]
    rows, problems = rows_of(bom + b'{"text": "a"}\r{"text": "b\xe9"}\r{"text": "c"}', "data.jsonl")
    assert [row.fields["text"] for row in rows] == ["a", "b\ufffd", "c"]
    assert [problem.line for problem in problems] == [2]


def test_a_cr_within_a_quoted_cell_is_text_where_lines_end_otherwise():
    rows, problems = rows_of(b'text,label\n"a\rb",x\n', "data.csv")
    assert problems == []
    assert [row.fields["text"] for row in rows] == ["a\rb"]


def test_a_line_separator_of_unicode_inside_a_json_string_does_not_end_the_line():
    rows, problems = rows_of('{"text": "one\u2028two\x85three"}\n{"text": "four"}'.encode(), "data.jsonl")
    assert problems == []
    assert [row.line for row in rows] == [1, 2]


@given(st.binary(max_size=400), st.sampled_from(["a.csv", "a.jsonl", "a"]))
def test_any_bytes_are_read_without_an_exception(content, filename):
    rows_of(content, filename)


def test_non_utf8_names_the_byte_the_offset_the_line_and_the_way_out():
    content = b'{"text": "ok"}\n{"text": "caf' + b'\xe9"}\n{"text": "x\xff"}\n'
    _, problems = rows_of(content, "data.jsonl")
    assert [problem.line for problem in problems] == [2, 3]
    assert f"0xe9 at offset {content.index(0xE9)}" in problems[0].reason
    assert f"0xff at offset {content.index(0xFF)}" in problems[1].reason
    assert "UTF-8" in problems[0].remedy


def test_the_offset_of_a_bad_byte_counts_the_bom():
    problem = only_problem(b"\xef\xbb\xbftext,label\r\nx\xfe,y\r\n", "data.csv")
    assert problem.line == 2
    assert "offset 16" in problem.reason


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ("text,label\nx,y\n".encode("utf-16"), "UTF-16"),
        ("text,label\nx,y\n".encode("utf-16-le"), "UTF-16"),
        ('{"text": "x"}'.encode("utf-16-be"), "UTF-16"),
        (b"PK\x03\x04rest", "Excel"),
        (b"\x1f\x8b\x08rest", "gzip"),
        (b"PAR1rest", "Parquet"),
    ],
)
def test_files_that_are_no_utf8_text_are_named_for_what_they_are(content, name):
    problem = only_problem(content, "data.csv")
    assert name in problem.reason
    assert "UTF-8" in problem.remedy


def test_broken_json_is_found_on_its_line_with_its_column():
    lines = [json.dumps({"text": f"text {index}"}) for index in range(10)]
    lines[6] = '{"text": "text 6", "label" "x"}'
    rows, problems = rows_of("\n".join(lines).encode(), "data.jsonl")
    assert [problem.line for problem in problems] == [7]
    assert "column 28" in problems[0].reason
    assert len(rows) == 9


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ('"text"', "object"),
        ("{'text': 'x'}", "double quotes"),
        ("{", "single line"),
        ("text,label", ".csv"),
        ('{"text": "a", "text": "b"}', "twice"),
        ('{"text": NaN}', "NaN"),
        ('{"text": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested"),
        ('{"text": ' + "1" * 10_000 + "}", "JSON"),
        ('{"text": "unfinished', "Unterminated string starting at column 10"),
        ('{"text": "a\0b"}', "Invalid control character at column 12"),
    ],
)
def test_each_mistake_in_json_gets_its_own_explanation(line, word):
    problem = only_problem(line.encode(), "data.jsonl")
    assert problem.line == 1
    assert word in f"{problem.reason} {problem.remedy}"
    assert " at at " not in problem.reason


@pytest.mark.parametrize(
    "content", ['[{"text": "a", "label": "x"}]', '\n [\n  {"text": "a"},\n  {"text": "b"}\n]\n', "["]
)
def test_a_json_array_is_named_with_the_command_that_makes_lines_of_it(content):
    problem = only_problem(content.encode(), "my data.json")
    assert "JSON array" in problem.reason and "{" not in problem.reason
    assert "jq -c '.[]' 'my data.json' > 'my data.json.jsonl'" in problem.remedy


def test_the_name_decides_the_format_and_the_content_only_where_the_name_says_nothing():
    assert rows_of(b'{"text": "x"}', "upload")[0][0].fields == {"text": "x"}
    assert rows_of(b"text,label\nx,y", "upload")[0][0].fields == {"text": "x", "label": "y"}
    assert rows_of(b"text\n{x}", "data.CSV")[0][0].fields == {"text": "{x}"}
    assert rows_of(b"text,label\nx,y", "data.jsonl")[0] == []


@pytest.mark.parametrize(
    ("content", "line", "word"),
    [
        (b"text;label\nx,y\n", 2, "1 column(s), the header has 2"),
        (b"text,label;more\nx;y\n", 2, "1 column(s), the header has 2"),
        (b"text,text\nx,y\n", 1, "more than once"),
        (b"text,label,,\nx,y,,\n", 1, "2 columns without a name"),
        (b'text,label\n\nx,y\n"open\nquote,y\n', 4, "quotes"),
        (b'text,label\n"x"z,y\n', 2, "quotes"),
        (b'text,label\n"a\nb",y\nx,y,z\n', 4, "3 column(s)"),
        (b'text,label\n"' + b"x" * 140_000 + b'",y\n', 2, "longer than"),
    ],
)
def test_each_mistake_in_csv_is_found_on_the_line_its_row_starts(content, line, word):
    problem = only_problem(content, "data.csv")
    assert problem.line == line
    assert word in problem.reason


@pytest.mark.parametrize("mark", [";", "\t"])
def test_tables_of_spreadsheets_in_other_countries_are_read(mark):
    table = f'\ntext{mark}label\n"one{mark} two",x\n'.replace(",", mark) + f"3,5 km{mark}y\n"
    rows, problems = rows_of(table.encode(), "data.csv")
    assert problems == []
    assert [(row.line, row.fields) for row in rows] == [
        (3, {"text": f"one{mark} two", "label": "x"}),
        (4, {"text": "3,5 km", "label": "y"}),
    ]


def test_a_line_over_the_limit_is_refused_without_decoding_it_and_reading_goes_on():
    content = b'{"text": "' + b"x" * MAX_ROW_BYTES + b'"}\n{"text": "y"}\n'
    rows, problems = rows_of(content, "data.jsonl")
    assert [problem.line for problem in problems] == [1]
    assert [row.line for row in rows] == [2]


def test_problems_are_capped_and_reading_stops_there():
    _, problems = rows_of(b"{\n" * (MAX_PROBLEMS + 500), "data.jsonl")
    assert len(problems) == MAX_PROBLEMS
    assert problems[-1].line == MAX_PROBLEMS


def test_excerpts_are_short_and_printable():
    assert excerpt("\x1b[31mred") == r"'\x1b[31mred'"
    assert len(excerpt("x" * 500)) <= 40
    assert (excerpt(True), excerpt(None), excerpt({"a": [1]})) == ("true", "null", '{"a": [1]}')
    assert excerpt(list(range(50))).endswith("10, 11...")
    assert excerpt({1, 2}) == '"{1, 2}"'


def test_jsonl_that_is_called_csv_is_told_once_with_the_name_that_it_needs():
    problem = only_problem(b'{"text": "a, b", "label": "x"}\n' * 40, "few.csv")
    assert (problem.line, problem.remedy) == (1, "Give the file's name the ending .jsonl.")


def test_csv_that_is_called_jsonl_is_told_in_a_few_lines_and_broken_rows_are_told_all():
    _, problems = rows_of(b"text,label\n" + b"a,x\n" * 40, "few.jsonl")
    assert [problem.line for problem in problems] == [1, 2, 3]
    assert all("the ending .csv" in problem.remedy for problem in problems)
    _, problems = rows_of(b'{"text": "a"}\n' + b"a,x\n" * 40, "few.jsonl")
    assert len(problems) == 40
