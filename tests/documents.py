"""The fenced blocks of the documentation: what they are, how those of a page run one after another, what they print."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "examples" / "README.md"])
RUN = ("bash", "console", "python")
READ = ("json", "yaml", "csv")
SHOWN = ("text",)  # pictures and outputs: nothing can be done with them
FENCE = re.compile(r"^```(\w*)(?: title=\"([^\"]+)\")?$")
NOT_RUN = re.compile(r"^<!-- run: no, because (.+) -->$")
IDS = re.compile(
    r"\b(?:ftjob-|file-|proj-|whep_|whdel_|ftckpt_)[0-9a-f]{24}|\bft:[\w.-]+:[\w.-]*:[\w.-]*:[0-9a-f]{8,12}"
    r"|\bsgg_[0-9a-f]{16}_[\w-]+|\b[0-9a-f]{16}\b"
)
KIND = re.compile(r"[0-9a-f]{8,}(_[\w-]+)?$")  # all that differs between ids of one kind
LEFT = re.compile(r"\s+[\d:]+s? left$")
NUMBER = re.compile(r"[-+]?\d[\d.,:-]*")


@dataclass(frozen=True)
class Block:
    """One fenced block. `kept_out` says why it is not run, if it is not."""

    page: Path
    line: int
    language: str
    title: str | None
    code: str
    kept_out: str | None

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    """Return a page's blocks in their order. Fails for a fence that is not closed."""
    found, lines = [], page.read_text().splitlines()
    number = 0
    while number < len(lines):
        opened = FENCE.match(lines[number])
        if opened:
            end = lines.index("```", number + 1)
            reason = NOT_RUN.match(lines[number - 1]) if number else None
            code = "\n".join(lines[number + 1 : end]) + "\n"
            found.append(Block(page, number + 1, opened[1], opened[2], code, reason[1] if reason else None))
            number = end
        number += 1
    return found


def steps_of(block: Block) -> Iterator[tuple[str, list[str]]]:
    """Split a console block into commands, each with the lines that it printed."""
    command, printed = "", []
    for line in block.code.splitlines():
        if line.startswith("$ "):
            if command:
                yield command, printed
            command, printed = line.removeprefix("$ "), []
        elif command.endswith("\\"):
            command += "\n" + line
        else:
            printed.append(line)
    yield command, printed


def plain(line: str, home: Path) -> str:
    """A line without what differs from run to run: ids, figures, times, places, spaces."""
    line = LEFT.sub("", line)
    line = IDS.sub("<id>", line.replace(f"{home}/", "").replace(f"{ROOT}/", "/"))
    return " ".join(NUMBER.sub("0", line).split())


def missing_lines(expected: Iterable[str], printed: Iterable[str], home: Path) -> list[str]:
    """Give the expected lines that were not printed, in their order; `...` stands for any lines."""
    rest = iter([plain(line, home) for line in printed])
    wanted = [line for line in expected if line.strip() not in ("", "...")]
    return [line for line in wanted if not any(plain(line, home) == told for told in rest)]


class Shell:
    """A bash in which a page's blocks run one after the other, so that variables and files of one serve the next."""

    END = "@@end-of-block@@"

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        self.directory = directory
        self.ids: dict[str, str] = {}  # ids that a page prints, and those that are meant here
        self._process = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=directory,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, code: str) -> tuple[int, list[str]]:
        """Run a piece of code to its end; give the exit code and the printed lines."""
        assert self._process.stdin and self._process.stdout
        for printed, meant in self.ids.items():
            code = code.replace(printed, meant)
        script = f"{{\nset -euo pipefail\n{code}\n}} < /dev/null\nset +euo pipefail\necho; echo {self.END} 0\n"
        self._process.stdin.write(script)
        self._process.stdin.flush()
        lines: list[str] = []
        for line in self._process.stdout:
            if line.startswith(self.END):
                return int(line.split()[1]), lines
            lines.append(line.rstrip("\n"))
        return self._process.wait(), lines  # `set -e` has ended it

    def learn_ids(self, expected: Iterable[str], printed: Iterable[str]) -> None:
        """Remember which id of this run stands for which id of the page."""
        there, here = (IDS.findall("\n".join(lines)) for lines in (expected, printed))
        for kind in {KIND.sub("", name) for name in there}:
            pairs = zip(*([one for one in ids if KIND.sub("", one) == kind] for ids in (there, here)), strict=False)
            self.ids |= {old: new for old, new in pairs if old not in self.ids}

    def as_written(self, line: str) -> str:
        """Give a printed line with the page's ids in the place of this run's, and paths from here."""
        line = line.replace(f"{self.directory}/", "")
        for printed, meant in self.ids.items():
            line = line.replace(meant, printed)
        return line

    def close(self) -> None:
        """End the shell."""
        self._process.kill()
        self._process.communicate()


def program(code: str) -> str:
    """A Python program as a piece of code for the shell."""
    return f"{sys.executable} - <<'END_OF_PROGRAM'\n{code}END_OF_PROGRAM"


def record(block: Block, steps: Iterable[tuple[str, list[str]]]) -> None:
    """Write what commands have printed into their page; of long outputs the beginning and the end."""
    told: list[str] = []
    for command, printed in steps:
        lines = [line.rstrip() for line in printed if line.strip()]
        told += [f"$ {command}", *(lines if len(lines) <= 16 else [*lines[:5], "...", *lines[-8:]])]
    text = block.page.read_text()
    fence = f"```console\n{block.code}```"
    assert fence in text
    block.page.write_text(text.replace(fence, "```console\n" + "\n".join(told) + "\n```", 1))
