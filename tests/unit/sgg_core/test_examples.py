"""Whole files: all problems at once, warnings, and whether files fit together."""

import hashlib
import json
import pickle
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import pytest

from sgg_core.errors import DataError, SourceFileError, ValidationFileError
from sgg_core.examples import check_sources, check_training, check_validation, parse_examples, read_examples
from sgg_core.shapes import Limits


def jsonl(*rows):
    return "\n".join(json.dumps(row) for row in rows).encode()


def labelled(*pairs, filename="data.jsonl"):
    return parse_examples(jsonl(*({"text": text, "label": label} for text, label in pairs)), filename)


@pytest.mark.parametrize("content", [b"hello\n", b"hello\nworld\n"])
def test_a_name_that_tells_no_format_is_said_where_no_examples_are_found(content):
    with pytest.raises(DataError) as caught:
        parse_examples(content, "words.txt")
    assert "ending" in caught.value.problems[0].reason and ".jsonl" in caught.value.problems[0].remedy
    with pytest.raises(DataError) as named:
        parse_examples(content, "words.csv")
    assert named.value.problems == caught.value.problems[1:]


@pytest.mark.parametrize(
    "content", [b"PK\x03\x04", b"[]", b'{"txt": "a"}', b"text,label\nx,y\nx\n"], ids=("zip", "array", "json", "table")
)
def test_the_name_is_not_blamed_where_the_contents_tell_the_format(content):
    with pytest.raises(DataError) as caught:
        parse_examples(content, "words.txt")
    assert not [problem for problem in caught.value.problems if "ending" in problem.reason]


def test_a_directory_is_called_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"^\. has 1 problem:\n  file: It is a directory\."):
        read_examples(Path())


def test_all_problems_of_a_file_come_at_once_in_order():
    content = b"\n".join(
        [
            b'{"text": "fine", "label": "x"}',
            b'{"text": "", "label": "x"}',
            b'{"text": "no label"}',
            b'{"prompt": "p", "completion": "c"}',
            b'{"text": "caf\xe9", "label": "x"}',
            b'{"text": "fine", "label": 0.5}',
            b'{"text": broken',
        ]
    )
    with pytest.raises(DataError) as caught:
        parse_examples(content, "data.jsonl")
    assert [(problem.line, problem.field) for problem in caught.value.problems] == [
        (2, "text"),
        (3, "label"),
        (4, None),
        (5, None),
        (6, "label"),
        (7, None),
    ]
    assert "completion" in caught.value.problems[2].reason and "classification" in caught.value.problems[2].reason
    assert pickle.loads(pickle.dumps(caught.value)).problems == caught.value.problems


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf", b"text,label\n"])
@pytest.mark.parametrize("filename", ["data.csv", "upload"])
def test_an_empty_file_says_what_belongs_into_it(content, filename):
    with pytest.raises(DataError, match=r"no examples.*text \+ label"):
        parse_examples(content, filename)


def test_the_same_data_is_the_same_set_whatever_the_format_and_line_endings():
    rows = [{"text": 'He said "no",\nthen left', "label": "x"}, {"text": "b", "label": "y"}]
    table = b'text,label\n"He said ""no"",\nthen left",x\nb,y\n'
    variants = [jsonl(*rows), b"\xef\xbb\xbf" + jsonl(*rows).replace(b"\n", b"\r\n")]
    tables = [table, b"\xef\xbb\xbf" + table.replace(b"\n", b"\r\n")]
    sets = [parse_examples(content, "a.jsonl") for content in variants]
    sets += [parse_examples(content, "a.csv") for content in tables]
    assert len({one.examples for one in sets}) == 1
    assert [one.lines for one in sets] == [(1, 2), (1, 2), (2, 4), (2, 4)]


@pytest.mark.parametrize(
    ("content", "filename", "line", "field"),
    [
        (b"text,label\na,x\nb\0,y\n", "a.csv", 3, "text"),
        (b"text,label\na,x\nb,\0y\n", "a.csv", 3, "label"),
        (b"te\0t,label\na,x\n", "a.csv", 1, "te\\x00t"),
        (jsonl({"text": "a\0", "label": "x"}), "a.jsonl", 1, "text"),
        (jsonl({"text": "a", "text_pair": "\0", "label": "x"}), "a.jsonl", 1, "text_pair"),
        (jsonl({"text": "a", "label": "x", "\0": 1}), "a.jsonl", 1, "\\x00"),
        (jsonl({"prompt": "p\0", "completion": "c"}), "a.jsonl", 1, "prompt"),
        (b'{"text": "a\0", "label": "x"}', "a.jsonl", 1, None),
        (b"\0" * 40, "a.jsonl", 1, None),
        (b"\0" * 40, "a.csv", None, None),
        (
            jsonl({"messages": [{"role": "user", "content": "\0"}, {"role": "assistant", "content": "b"}]}),
            "a.jsonl",
            1,
            "messages[0].content",
        ),
    ],
)
def test_a_nul_is_refused_wherever_it_stands(content, filename, line, field):
    with pytest.raises(DataError) as caught:
        parse_examples(content, filename)
    assert (caught.value.problems[0].line, caught.value.problems[0].field) == (line, field)
    assert "\0" not in str(caught.value)


def test_the_hash_is_that_of_the_bytes():
    content = jsonl({"text": "a", "label": "x"})
    assert parse_examples(content, "a.jsonl").sha256 == hashlib.sha256(content).hexdigest()


def test_51_megabytes_are_refused_before_anything_is_read():
    content = b"{" * (51 * 2**20)
    began = time.perf_counter()
    with pytest.raises(DataError, match=r"53,477,376 bytes; the limit is 52,428,800") as caught:
        parse_examples(content, "big.jsonl")
    assert time.perf_counter() - began < 0.5
    assert len(caught.value.problems) == 1


def test_parsing_time_grows_with_the_size_and_memory_stays_near_it():
    def cost(rows):
        content = jsonl(*({"text": f"{index} " + "word " * 20, "label": str(index % 4)} for index in range(rows)))
        tracemalloc.start()
        began = time.process_time()
        parse_examples(content, "a.jsonl")
        seconds = time.process_time() - began
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return seconds, peak / len(content)

    small, _ = cost(1_000)
    large, memory = cost(16_000)
    assert large < 16 * 4 * small
    assert memory < 8


def test_a_hostile_row_of_fifty_thousand_keys_is_refused_in_linear_time():
    pairs = ", ".join(f'"k{index}": 1' for index in range(50_000))
    began = time.process_time()
    with pytest.raises(DataError):
        parse_examples(("{" + pairs + ', "k1": 2}').encode(), "a.jsonl")
    with pytest.raises(DataError):
        parse_examples((",".join(f"k{index}" for index in range(50_000)) + "\n").encode() * 2, "a.csv")
    assert time.process_time() - began < 5


def test_suspicious_rows_are_warned_of_and_kept():
    data = labelled(("same", "x"), ("other", "x"), ("same", "x"), ("same", "y"), ("third", "X"), ("fourth", "y"))
    assert len(data) == 6
    told = {(warning.line, warning.field): warning.reason for warning in data.warnings}
    assert "line 1" in told[3, None]
    assert "'x' on line 1" in told[4, "label"]
    assert any("upper and lower case" in w.reason and w.line == 5 for w in data.warnings)
    assert any("only this example" in w.reason and w.line == 5 for w in data.warnings)
    assert {warning.line for warning in data.warnings} == {3, 4, 5}
    assert all(warning.remedy for warning in data.warnings)


def test_a_clean_file_has_no_warnings():
    assert labelled(("a", "x"), ("b", "x"), ("c", "y"), ("d", "y")).warnings == ()


def test_training_needs_two_labels():
    check_training(labelled(("a", "x"), ("b", "y")))
    check_training(parse_examples(jsonl({"prompt": "p", "completion": "c"}), "a.jsonl"))
    with pytest.raises(DataError, match="All examples have the label 'x'"):
        check_training(labelled(("a", "x"), ("b", "x")))


def test_validation_labels_must_occur_in_training_and_each_stranger_is_named_once():
    training = labelled(("a", "x"), ("b", "y"))
    check_validation(training, labelled(("c", "y")))
    strangers = labelled(("c", "z"), ("d", "x"), ("e", "z"), ("f", "w"), filename="valid.jsonl")
    with pytest.raises(ValidationFileError, match="x, y") as caught:
        check_validation(training, strangers)
    assert caught.value.filename == "valid.jsonl"
    assert [problem.line for problem in caught.value.problems] == [1, 4]


def test_all_files_of_a_job_are_of_one_kind_and_sources_may_have_labels_of_their_own():
    training = labelled(("a", "x"), ("b", "y"))
    completions = parse_examples(jsonl({"prompt": "p", "completion": "c"}), "sft.jsonl")
    source = labelled(("c", "z"), ("d", "w"))
    check_sources(training, (source,))
    with pytest.raises(SourceFileError, match=r"sft\.jsonl"):
        check_sources(training, (source, completions))
    with pytest.raises(ValidationFileError, match="same kind"):
        check_validation(training, completions)


def test_a_source_of_one_label_is_refused_because_it_has_no_gradient_worth_aligning():
    with pytest.raises(SourceFileError, match="at least one other label"):
        check_sources(labelled(("a", "x"), ("b", "y")), (labelled(("c", "z"), ("d", "z")),))


@pytest.mark.parametrize("content", [b"", b'{"text": "a"}\n', b"x" * 11])
def test_a_refusal_tells_which_file_of_a_job_is_meant(content):
    with pytest.raises(SourceFileError) as caught:
        parse_examples(content, "a.jsonl", Limits(max_bytes=10 if len(content) == 11 else 100), SourceFileError)
    assert caught.value.code == "invalid_source_file"


def test_a_file_on_disk_is_read_and_an_unreadable_one_is_an_error_with_its_path(tmp_path):
    path = tmp_path / "few.csv"
    path.write_bytes(b"text,label\na,x\n")
    assert read_examples(path).filename == "few.csv"
    with pytest.raises(DataError, match=r"missing\.csv"):
        read_examples(tmp_path / "missing.csv")
    with pytest.raises(DataError, match="limit is 10"):
        read_examples(path, Limits(max_bytes=10))


def test_reading_examples_loads_neither_torch_nor_transformers():
    code = "import sys, sgg_core.examples, sgg_core.catalogue; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
