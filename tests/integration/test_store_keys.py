"""API keys on both databases."""

from __future__ import annotations

import stat
import time
from pathlib import Path

import pytest

from sgg_store import keys as stored
from sgg_store.database import Database
from sgg_store.errors import RecordNotFoundError
from sgg_store.keys import DEFAULT_PROJECT_ID, SCOPES, ApiKeys, ensure_admin_key, ensure_project, load_key_secret

SECRET = b"s" * 32


def test_a_key_is_verified_by_its_plain_text_alone(database: Database) -> None:
    with database.begin() as session:
        ensure_project(session)
        record, plaintext = ApiKeys(session, SECRET).create(DEFAULT_PROJECT_ID, ["jobs:read"], name="ci")
    product, key_id, secret = plaintext.split("_", 2)
    assert (product, key_id) == ("sgg", record.id)
    assert len(secret) >= 43  # 32 bytes
    with database.read() as session:
        keys = ApiKeys(session, SECRET)
        found = keys.verify(plaintext)
        assert found is not None
        assert (found.id, found.project_id, found.scopes) == (record.id, DEFAULT_PROJECT_ID, ["jobs:read"])
        assert secret not in found.secret_hash
        assert ApiKeys(session, b"another server's secret").verify(plaintext) is None
        for wrong in (plaintext[:-1], plaintext + "x", f"sgg_{key_id}_", f"sgg_{key_id}", plaintext.upper()):
            assert keys.verify(wrong) is None


@pytest.mark.parametrize("text", ["", "sgg", "sgg__", "sk-123", "sgg_\0_x", "sgg_é_x", "sgg_a_\ud800", "sgg_%_x"])
def test_garbage_is_no_key_and_no_error(database: Database, text: str) -> None:
    with database.read() as session:
        assert ApiKeys(session, SECRET).verify(text) is None


def test_a_page_goes_on_after_a_key_that_was_revoked(database: Database) -> None:
    with database.begin() as session:
        ensure_project(session)
        keys = ApiKeys(session, SECRET)
        made = {keys.create(DEFAULT_PROJECT_ID, [])[0].id for _ in range(2)}
    with database.begin() as session:
        keys = ApiKeys(session, SECRET)
        first, second = (key.id for key in keys.list_page(DEFAULT_PROJECT_ID).items)  # of one millisecond, maybe
        assert {first, second} == made
        keys.revoke(DEFAULT_PROJECT_ID, first)
        assert [key.id for key in keys.list_page(DEFAULT_PROJECT_ID, after=first).items] == [second]


def test_expired_and_revoked_keys_open_nothing(database: Database) -> None:
    with database.begin() as session:
        ensure_project(session)
        keys = ApiKeys(session, SECRET)
        _, short = keys.create(DEFAULT_PROJECT_ID, [], expires_at=database.now() + 0.2)
        record, revoked = keys.create(DEFAULT_PROJECT_ID, [])
    with database.read() as session:
        assert ApiKeys(session, SECRET).verify(revoked)
    with pytest.raises(RecordNotFoundError), database.begin() as session:
        ApiKeys(session, SECRET).revoke("proj-other", record.id)
    with database.begin() as session:
        first = ApiKeys(session, SECRET).revoke(DEFAULT_PROJECT_ID, record.id).revoked_at
        assert ApiKeys(session, SECRET).revoke(DEFAULT_PROJECT_ID, record.id).revoked_at == first
    time.sleep(0.25)
    with database.read() as session:
        assert ApiKeys(session, SECRET).verify(short) is None
        assert ApiKeys(session, SECRET).verify(revoked) is None


def test_unknown_scopes_are_refused(database: Database) -> None:
    with pytest.raises(ValueError, match="Unknown scopes: everything"), database.begin() as session:
        ApiKeys(session, SECRET).create(DEFAULT_PROJECT_ID, ["everything"])


def test_the_admin_key_is_made_once_and_kept_private(database: Database, tmp_path: Path) -> None:
    directory = tmp_path / "data"
    plaintext = ensure_admin_key(database, directory)
    assert (directory / "admin-key").read_text().strip() == plaintext
    assert ensure_admin_key(database, directory) == plaintext
    for name in ("admin-key", "key-secret"):
        assert stat.S_IMODE((directory / name).stat().st_mode) == 0o600
    assert sorted(path.name for path in directory.iterdir()) == ["admin-key", "key-secret"]
    with database.read() as session:
        key = ApiKeys(session, load_key_secret(directory)).verify(plaintext)
        assert key is not None
        assert key.scopes == sorted(SCOPES)


def test_of_two_first_starts_at_once_both_have_the_same_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link, of_the_faster = stored._link_unless_taken, []

    def be_overtaken(part: Path, path: Path) -> None:
        """Between its look at what is there and its own file's place, another process does all of it."""
        monkeypatch.undo()
        of_the_faster.append(load_key_secret(tmp_path))
        link(part, path)

    monkeypatch.setattr(stored, "_link_unless_taken", be_overtaken)
    assert [load_key_secret(tmp_path), load_key_secret(tmp_path)] == of_the_faster * 2
    assert [path.name for path in tmp_path.iterdir()] == ["key-secret"]


@pytest.mark.parametrize("damage", ["gone", "garbage"])
def test_a_lost_admin_key_is_made_anew(database: Database, tmp_path: Path, damage: str) -> None:
    lost = ensure_admin_key(database, tmp_path)
    (tmp_path / "admin-key").unlink()
    if damage == "garbage":
        (tmp_path / "admin-key").write_text("garbage")
    plaintext = ensure_admin_key(database, tmp_path)
    assert plaintext != lost
    assert (tmp_path / "admin-key").read_text().strip() == plaintext
    assert stat.S_IMODE((tmp_path / "admin-key").stat().st_mode) == 0o600
