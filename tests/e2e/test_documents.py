"""Every block of the documentation is run, or read and held to the API's schema, in the order of its page.

A page says `<!-- run: no, because ... -->` before a block that cannot run in a test. With SGG_RECORD_DOCUMENTS set, the
outputs of the pages' commands are written into them instead of being compared.
"""

import csv
import io
import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

from cli.yaml_lines import Loader
from docs.generate.http import schema, shapes
from tests.documents import (
    PAGES,
    READ,
    ROOT,
    RUN,
    SHOWN,
    Shell,
    blocks_of,
    missing_lines,
    program,
    record,
    steps_of,
)
from tests.e2e.conftest import served

RECORD = bool(os.environ.get("SGG_RECORD_DOCUMENTS"))
RUNNABLE = [page for page in PAGES if any(block.language in RUN and not block.kept_out for block in blocks_of(page))]
REQUEST = re.compile(r"(answer of )?(GET|POST|DELETE) (/v1/\S+)")


def name(page):
    return str(page.relative_to(ROOT))


@pytest.fixture(scope="module")
def service(tmp_path_factory, tiny_directory):
    """A server of the pages' own, for they show lists of all that it has."""
    with served(tmp_path_factory.mktemp("documents"), tiny_directory) as running:
        yield running


@pytest.fixture
def shell(service, tmp_path):
    here = tmp_path / "here"
    here.mkdir()
    (here / "examples").symlink_to(ROOT / "examples")
    key = (service.data_dir / "admin-key").read_text().strip()
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    opened = Shell(here, service.environment | {"SGG_API_KEY": key, "PATH": path, "COLUMNS": "120"})
    yield opened
    opened.close()


@pytest.mark.base_model
@pytest.mark.timeout(900)  # one page trains three adapters, which takes minutes on a busy machine
@pytest.mark.parametrize("page", RUNNABLE, ids=name)
def test_the_blocks_of_a_page_run_one_after_the_other(page, shell):
    for block in blocks_of(page):
        if block.title and not REQUEST.match(block.title):
            (shell.directory / block.title).write_text(block.code)
        elif block.kept_out:
            continue
        elif block.language == "console":
            run_console(block, shell)
        elif block.language in RUN:
            code, printed = shell.run(program(block.code) if block.language == "python" else block.code)
            assert code == 0, "\n".join([str(block), *printed])


def run_console(block, shell):
    done = []
    for command, expected in steps_of(block):
        wanted = any(line.startswith("error:") for line in expected)  # to show an error
        code, printed = shell.run(f"set +e\n{command}\n[ $? = 0 ] || echo @@failed")
        failed = "@@failed" in printed
        printed = [line for line in printed if line != "@@failed"]
        assert code == 0 and (RECORD or failed is wanted), "\n".join([str(block), command, *printed])
        shell.learn_ids(expected, printed)
        done.append((command, [shell.as_written(line) for line in printed]))
        if not RECORD:
            missing = missing_lines(expected, printed, shell.directory)
            assert missing == [], "\n".join([str(block), command, "printed:", *printed])
    if RECORD:
        record(block, done)


def test_the_pages_hold_no_blocks_that_nobody_looks_at():
    blocks = [block for page in PAGES for block in blocks_of(page)]
    assert [str(block) for block in blocks if block.language not in (*RUN, *READ, *SHOWN)] == []
    assert [str(block) for block in blocks if block.kept_out and block.language not in RUN] == []
    indented = [f"{name(page)}: {line}" for page in PAGES for line in indented_code(page)]
    assert indented == [], "write them as fenced blocks, which are run"


def indented_code(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    in_list = False  # there, an indented paragraph belongs to its item
    for before, line in itertools.pairwise(text.splitlines()):
        if line and not line.startswith(" "):
            in_list = re.match(r"(\d+\.|-) ", line) is not None
        elif before == "" and line.startswith("    ") and not in_list:
            yield line


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_data_can_be_read_and_requests_are_what_the_api_takes(page):
    for block in blocks_of(page):
        if block.language == "csv":
            assert len({len(row) for row in csv.reader(io.StringIO(block.code))}) == 1, str(block)
        if block.language not in ("json", "yaml"):
            continue
        values = [yaml.load(block.code, Loader)] if block.language == "yaml" else parsed(block.code)
        named = REQUEST.fullmatch(block.title or "")
        if named:
            for value in values:
                jsonschema.validate(value, shape_of(*named.groups()))
        elif (block.title or "").startswith("job"):
            jsonschema.validate(values[0], shape_of(None, "POST", "/v1/fine_tuning/jobs"))


def parsed(text):
    """One JSON document, or one a line."""
    try:
        return [json.loads(text)]
    except ValueError:
        return [json.loads(line) for line in text.splitlines()]


def shape_of(answer, verb, path):
    operation = schema()["paths"][path][verb.lower()]
    content = operation["responses"]["200"] if answer else operation["requestBody"]
    text = json.dumps(content["content"]["application/json"]["schema"]).replace("#/components/schemas/", "#/$defs/")
    definitions = json.loads(json.dumps(shapes()).replace("#/components/schemas/", "#/$defs/"))
    return json.loads(text) | {"$defs": definitions}


def test_a_changed_output_and_a_broken_command_are_noticed(shell, tmp_path):
    page = ROOT / "docs" / "never.md"
    for code, fails in (("$ echo one 1.5\none 7\n", False), ("$ echo one\ntwo\n", True), ("$ false\n", True)):
        block = blocks_of_text(page, tmp_path, f"```console\n{code}```\n")
        if fails:
            with pytest.raises(AssertionError):
                run_console(block, shell)
        else:
            run_console(block, shell)
    assert shell.run("one=1")[0] == 0
    assert shell.run("echo $one")[1][0] == "1"
    assert shell.run("false\necho unreachable")[0] != 0


def blocks_of_text(page, tmp_path, text):
    written = tmp_path / page.name
    written.write_text(text)
    (block,) = blocks_of(written)
    return type(block)(page, block.line, block.language, block.title, block.code, block.kept_out)


def test_the_programs_of_the_examples_are_printed_as_they_are():
    for file in ("guided_loop.py", "guided_trainer.py"):
        printed = [block.code for block in blocks_of(ROOT / "docs" / "library.md")]
        assert (ROOT / "examples" / file).read_text() in printed


def test_the_shell_has_what_the_pages_use():
    for tool in ("jq", "curl"):
        assert subprocess.run(["which", tool], capture_output=True, check=False).returncode == 0
