"""The adapter that a job starts from, brought to the trainer's disk. Only bundles of our own are unpacked."""

from __future__ import annotations

import re
import tarfile
from pathlib import Path

from sgg_core.adapter_file import ADAPTER, CONFIG, HEAD, MANIFEST
from sgg_core.errors import StartingPointError
from sgg_store.leases import Claim
from sgg_store.objects import ObjectStore
from sgg_store.records import CheckpointRecord
from worker.fetching import fetched_whole

MEMBERS = (ADAPTER, CONFIG, HEAD, MANIFEST)
DAMAGED = "Start from another checkpoint or adapter, and tell the administrator."


def fetch_start(objects: ObjectStore, claim: Claim, parent: Path) -> Path | None:
    """Fetch what the job starts from, if anything, into a directory of that name.

    Raises StartingPointError if it is not what was stored, and ObjectNotFoundError if it is gone.
    """
    start = claim.start
    if start is None or claim.start_name is None:
        return None
    directory = parent / re.sub(r"[^A-Za-z0-9._:-]", "-", claim.start_name)
    directory.mkdir(parents=True)
    if isinstance(start, CheckpointRecord):
        facts = start.manifest[ADAPTER]
        _download(objects, f"{start.object_prefix}/{ADAPTER}", directory / ADAPTER, facts["sha256"])
    elif start.purpose == "fine-tune":
        _download(objects, start.object_key, directory / ADAPTER, start.sha256)
    else:
        bundle = directory / "bundle"
        _download(objects, start.object_key, bundle, start.sha256)
        _unpack(bundle, directory)
        bundle.unlink()
    return directory


def _download(objects: ObjectStore, key: str, path: Path, sha256: str) -> None:
    if not fetched_whole(objects, key, path, sha256):
        raise StartingPointError("The adapter to start from is damaged: its bytes have changed.", DAMAGED)


def _unpack(bundle: Path, directory: Path) -> None:
    """Take the files that are needed, by their names alone, out of a bundle that `publish` wrote."""
    with tarfile.open(bundle, mode="r|gz") as archive:
        for member in archive:
            stream = archive.extractfile(member) if member.name in MEMBERS and member.isreg() else None
            if stream is not None:
                with (directory / member.name).open("wb") as target:
                    while chunk := stream.read(2**20):
                        target.write(chunk)
