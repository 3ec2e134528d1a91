"""How the report on a job is printed."""

import io
import sys

import httpx
import pytest

from cli.evidence import report, without_files

CARD = """\
---
base_model: "tiny"
tags: ["lora"]
---

# tiny, adapted

![Loss](plots/loss.png)

## What it is

| --- | --- |

See ![this](plots/a.png) there.

![Last](plots/last.png)
"""


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_what_only_a_file_has_a_use_for_is_left_out():
    told = without_files(CARD)
    assert told.startswith("# tiny, adapted\n\n## What it is\n")
    assert "| --- | --- |" in told and "See ![this]" in told
    assert "Last" not in told and "lora" not in told
    assert without_files("# No front matter\n\n---\n\ntext\n\n---\n") == "# No front matter\n\n---\n\ntext\n\n---\n"


@pytest.mark.parametrize(("terminal", "told"), [(True, without_files(CARD)), (False, CARD)], ids=("terminal", "pipe"))
def test_a_terminal_is_not_shown_it_and_a_pipe_has_all(sgg_to, monkeypatch, terminal, told):
    sgg_to(lambda request: httpx.Response(200, text=CARD))
    monkeypatch.setattr("sys.stdout", Terminal() if terminal else io.StringIO())
    report("ftjob-1")
    assert sys.stdout.getvalue() == told


def test_a_file_has_all(sgg_to, tmp_path):
    sgg_to(lambda request: httpx.Response(200, text=CARD))("jobs", "report", "ftjob-1", "--out", tmp_path / "r.md")
    assert (tmp_path / "r.md").read_text() == CARD
