"""The adapter bundle that a job leaves: downloaded, checked, unpacked without leaving its directory."""

from __future__ import annotations

import hashlib
import json
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cli.errors import CliError

MANIFEST = "sgg.json"
DAMAGED = "Download it again; if that does not help, the stored bundle is damaged."


def unpack(bundle: Path, target: Path) -> int:
    """Unpack a .tar.gz into the new directory `target`, which appears whole and verified or not at all.

    Returns the number of verified files. Raises CliError for anything but plain files and directories below `target`,
    for a damaged archive, and for a file that is not what its manifest says.
    """
    with _staging(target) as staging:
        try:
            with tarfile.open(bundle, "r:gz") as archive:
                for member in archive:
                    if not (member.isreg() or member.isdir()):
                        raise CliError(f"The bundle holds {member.name!r}, which is not a plain file.", DAMAGED)
                    archive.extract(member, staging, filter="data")
        except (tarfile.TarError, EOFError, OSError) as error:
            raise CliError(f"The bundle cannot be unpacked: {error}.", DAMAGED) from error
        return verify(staging)


def verify(directory: Path) -> int:
    """Compare the directory with the manifest in it, file by file, and return how many there are.

    Raises CliError for a file that is missing, changed, or not in the manifest, and for a manifest that is no such.
    """
    expected = _read_manifest(directory / MANIFEST)
    found = {path.relative_to(directory).as_posix() for path in directory.rglob("*") if not path.is_dir()}
    for stray in sorted(found - set(expected) - {MANIFEST}):
        raise CliError(f"{stray} is not in the manifest of the bundle.", DAMAGED)
    for name, digest in expected.items():
        if name not in found:
            raise CliError(f"{name} is missing from the bundle.", DAMAGED)
        with (directory / name).open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() != digest:
                raise CliError(f"{name} is not what the trainer wrote (its sha256 differs).", DAMAGED)
    return len(expected)


def refuse_existing(target: Path) -> None:
    """Raise CliError if `target` is there already and not an empty directory, or if it could not be written."""
    try:
        there = target.exists()
        taken = target.is_symlink() or (there and (not target.is_dir() or any(target.iterdir())))
        lasting = there and (target.is_mount() or target.samefile(Path.cwd()))
    except OSError as error:
        raise _unwritable(target, "--out", error) from error
    if taken:
        raise CliError(f"{target} exists already.", "Choose a new directory with --out, or remove this one.")
    if lasting:  # an empty directory is replaced at the end, which neither of these can be
        reason = f"{target} cannot be replaced: it is a mount point, or the directory that you are in."
        raise CliError(reason, f"Choose a new directory in it, such as --out {target / 'adapter'}.")
    refuse_unwritable(target.absolute().parent, "--out", target)


def refuse_unwritable(directory: Path, option: str, target: Path | None = None) -> None:
    """Raise CliError if nothing can be written into `directory`, which need not be there yet; it is left as it was.

    The message names `target`, or the directory.
    """
    try:
        place = next(each for each in (directory, *directory.absolute().parents) if each.is_symlink() or each.exists())
        with tempfile.TemporaryDirectory(prefix=".sgg-", dir=place):
            pass
    except OSError as error:
        raise _unwritable(target or directory, option, error) from error


def _unwritable(target: Path, option: str, error: OSError) -> CliError:
    reason = f"Cannot write {target}: {error.strerror or error}."
    return CliError(reason, f"Give a place for {option} that can be written.")


def _read_manifest(path: Path) -> dict[str, str]:
    try:
        files = json.loads(path.read_bytes())["files"]
        return {str(name): str(digest) for name, digest in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CliError(f"The bundle has no readable {MANIFEST}.", DAMAGED) from error


@contextmanager
def _staging(target: Path) -> Iterator[Path]:
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield staging
        staging.chmod(0o755)
        staging.rename(target)  # replaces an empty directory
    finally:
        shutil.rmtree(staging, ignore_errors=True)
