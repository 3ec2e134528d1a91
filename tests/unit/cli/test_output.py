import io
import json

import pytest

from cli import output
from cli.errors import CliError


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_piped_tables_are_neither_cut_nor_coloured(capsys):
    output.print_table(("ID", "NAME"), [("x" * 300, "[red]name[/red]"), (None, "b")], empty="none")
    header, first, second = capsys.readouterr().out.splitlines()
    assert header.split() == ["ID", "NAME"]
    assert first.split() == ["x" * 300, "[red]name[/red]"]
    assert second.split() == ["-", "b"]


def test_terminals_get_colours_and_pipes_do_not(monkeypatch):
    for stream, coloured in ((Terminal(), True), (io.StringIO(), False)):
        monkeypatch.setattr("sys.stderr", stream)
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.delenv("NO_COLOR", raising=False)
        output.print_failure(CliError("It broke.", "Mend it."), as_json=False)
        assert ("\x1b[" in stream.getvalue()) is coloured


def test_a_narrow_terminal_breaks_lines_between_words_and_never_an_id(monkeypatch):
    stream, identity = Terminal(), "ftjob-0123456789abcdef01234567"
    monkeypatch.setattr("sys.stdout", stream)
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setenv("TERM", "dumb")  # which has 80 columns
    output.print_failure(CliError("words " * 20, "more " * 20), as_json=False)
    output.say("words " * 30)
    output.print_table(("ID", "NAME", "MODEL"), [(identity, "a name " * 9, "ft:model:default:suffix:0123")], empty="-")
    lines = stream.getvalue().splitlines()
    assert all(len(line) <= 80 for line in lines)
    told = " ".join(lines).partition("ID")[0]
    assert set(told.split()) == {"error:", "words", "more"}
    assert any(line.startswith(identity) for line in lines)


def test_no_color_is_honoured(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr("sys.stdout", stream)
    monkeypatch.setenv("NO_COLOR", "1")
    output.say("plain", style="red")
    assert "\x1b[3" not in stream.getvalue()


def test_an_empty_table_is_a_sentence(capsys):
    output.print_table(("ID",), [], empty="There is nothing.")
    assert capsys.readouterr().out == "There is nothing.\n"


def test_json_keeps_every_letter(capsys):
    output.print_json({"text": "Grüße 世界"})
    printed = capsys.readouterr().out
    assert "世界" in printed
    assert json.loads(printed) == {"text": "Grüße 世界"}


@pytest.mark.parametrize("text", ["\x1b[2J", "\x07", "a\rb", "\x9b31m", "\u202e"])
def test_nothing_that_steers_a_terminal_is_printed(capsys, text):
    output.say(text)
    output.print_table(("A",), [(text,)], empty="none")
    assert not set(capsys.readouterr().out) & set("\x1b\x07\r\x9b\u202e")


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (2_500_000, "2.5 MB"), (2_666_000_000, "2.7 GB")],
)
def test_sizes(count, text):
    assert output.size(count) == text


@pytest.mark.parametrize(
    ("smallest", "words"),
    [(0.2, "differences in accuracy of 20.0 % and more"), (1.0, "too few examples"), (None, "too few examples")],
)
def test_what_few_examples_can_show_is_said_in_words(smallest, words):
    assert words in output.what_it_shows(smallest)
