"""`python -m docs.generate.terminal FILE.svg`: a picture of a terminal in which a job is submitted and watched."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pyte
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parents[2]
COLUMNS, LINES = 104, 40
FILES = "--train examples/support_tickets.train.jsonl --validation examples/support_tickets.valid.jsonl"
COMMANDS = (
    f"sgg jobs submit --watch -m all-minilm-l6-v2 --seed 7 --set optimization.max_steps=40 \\\n    {FILES}",
    "sgg jobs list",
)
# Fonts of rich's own template come from another server; the reader's are as good.
FORMAT = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
COLOURS = {"brown": "yellow", "default": ""}  # what pyte calls them, and what rich does


def draw(target: Path) -> None:
    """Run the commands against a server of their own and write what the terminal shows at the end."""
    screen = pyte.Screen(COLUMNS, LINES)
    stream = pyte.ByteStream(screen)
    with tempfile.TemporaryDirectory() as home, _server(Path(home)) as environment:
        (Path(home) / "examples").symlink_to(ROOT / "examples")
        for command in COMMANDS:
            stream.feed(f"\x1b[32m$\x1b[0m {command}\n".replace("\n", "\r\n").encode())
            for piece in _written(command, Path(home), environment):
                stream.feed(piece)
    console = Console(record=True, width=COLUMNS, file=io.StringIO())
    shown = [_line(screen, number) for number in range(LINES)]
    while not shown[-1].plain.strip():
        shown.pop()
    for line in shown:
        console.print(line)
    target.write_text(console.export_svg(title="sgg jobs submit --watch", code_format=FORMAT), encoding="utf-8")


@contextmanager
def _server(home: Path) -> Iterator[Mapping[str, str]]:
    """Run a server on a free port; give the environment of commands that use it."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SGG_") and name != "NO_COLOR"}
    environment = clean | {"SGG_DATA_DIR": str(home / "data"), "PATH": f"{Path(sys.executable).parent}:{clean['PATH']}"}
    command = ["sgg", "serve", "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment) as server:
        try:
            assert server.stdout is not None
            yield environment | {"SGG_BASE_URL": json.loads(server.stdout.readline())["url"]}
        finally:
            server.terminate()


def _written(command: str, home: Path, environment: Mapping[str, str]) -> Iterator[bytes]:
    """Yield what a command writes to a terminal. Raises CalledProcessError if it fails."""
    ours, theirs = pty.openpty()
    size = {"COLUMNS": str(COLUMNS), "LINES": str(LINES), "TERM": "xterm-256color"}
    with subprocess.Popen(
        ["bash", "-c", command], stdin=theirs, stdout=theirs, stderr=theirs, cwd=home, env={**environment, **size}
    ) as process:
        os.close(theirs)
        while piece := _read(ours):
            yield piece
    os.close(ours)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # its other end is closed
        return b""


def _line(screen: pyte.Screen, number: int) -> Text:
    text = Text(no_wrap=True)
    for column in range(COLUMNS):
        character = screen.buffer[number][column]
        colour = COLOURS.get(character.fg, character.fg)
        colour = f"#{colour}" if re.fullmatch(r"[0-9a-f]{6}", colour) else colour
        text.append(character.data, style=f"{'bold ' if character.bold else ''}{colour}".strip() or None)
    text.rstrip()
    return text


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
