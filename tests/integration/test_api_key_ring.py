"""Keys are looked up in the database once in a while, not with every request."""

from __future__ import annotations

from api.auth import Identity, KeyRing
from sgg_store.browser_sessions import BrowserSessions
from sgg_store.database import Database
from sgg_store.keys import DEFAULT_PROJECT_ID, ApiKeys, ensure_project
from sgg_store.testing import statements

SECRET = b"s" * 32


def new_key(database: Database) -> tuple[str, str]:
    with database.begin() as session:
        ensure_project(session)
        record, plaintext = ApiKeys(session, SECRET).create(DEFAULT_PROJECT_ID, ["jobs:read"])
        return record.id, plaintext


def test_a_known_key_costs_no_query_until_its_time_is_over(database: Database) -> None:
    _, plaintext = new_key(database)
    keys, forgetful = (KeyRing(database, SECRET, seconds=seconds) for seconds in (3600, 0))
    first = keys.identify(plaintext)
    assert first is not None and forgetful.identify(plaintext) == first
    with statements() as sent:
        assert [keys.identify(plaintext) for _ in range(100)] == [first] * 100
        assert sent == []
        assert forgetful.identify(plaintext) == first
        assert len(sent) > 0


def test_what_is_wrong_is_never_remembered_as_good(database: Database) -> None:
    key_id, plaintext = new_key(database)
    keys = KeyRing(database, SECRET, seconds=60)
    assert keys.identify(plaintext[:-1]) is None
    assert keys.identify(plaintext) is not None
    assert keys.identify(plaintext + "x") is None
    with database.begin() as session:
        ApiKeys(session, SECRET).revoke(DEFAULT_PROJECT_ID, key_id)
    keys.forget("another")
    assert keys.identify(plaintext) is not None
    keys.forget(key_id)
    assert keys.identify(plaintext) is None


def test_the_number_of_remembered_keys_is_bounded_and_none_is_kept_in_plain(database: Database) -> None:
    keys = KeyRing(database, SECRET, seconds=60)
    keys.MOST = 3
    made = [new_key(database)[1] for _ in range(5)]
    assert all(keys.identify(plaintext) for plaintext in made)
    assert 0 < len(keys._known) <= 3
    assert not any(plaintext.split("_", 2)[2] in repr(keys.__dict__) for plaintext in made)


def test_the_last_use_is_noted_once_a_minute(database: Database) -> None:
    key_id, plaintext = new_key(database)
    keys = KeyRing(database, SECRET, seconds=0)
    noted = []
    for _ in range(3):
        keys.identify(plaintext)
        with database.read() as session:
            noted.append(ApiKeys(session, SECRET).get(DEFAULT_PROJECT_ID, key_id).last_used_at)
    assert noted[0] is not None and len(set(noted)) == 1


def test_a_key_that_is_revoked_while_it_is_looked_up_is_not_remembered(database: Database) -> None:
    key_id, plaintext = new_key(database)

    class Overtaken(KeyRing):
        def _verified(self, plaintext: str) -> Identity | None:
            identity = super()._verified(plaintext)
            with database.begin() as session:
                ApiKeys(session, SECRET).revoke(DEFAULT_PROJECT_ID, key_id)
            self.forget(key_id)
            return identity

    keys = Overtaken(database, SECRET, seconds=3600)
    assert keys.identify(plaintext) is not None  # it was good when it was looked up
    assert keys.remembered(plaintext) is None
    assert KeyRing(database, SECRET, seconds=3600).identify(plaintext) is None


def test_a_session_that_ends_while_it_is_looked_up_is_not_remembered(database: Database) -> None:
    key_id, _ = new_key(database)
    with database.begin() as session:
        token, _ = BrowserSessions(session).begin(key_id, seconds=3600)

    class Overtaken(KeyRing):
        def _found(self, token: str) -> Identity | None:
            identity = super()._found(token)
            with database.begin() as session:
                BrowserSessions(session).end(token)
            self.forget_session(token)
            return identity

    keys = Overtaken(database, SECRET, seconds=3600)
    assert keys.identify_session(token) is not None  # it was good when it was looked up
    assert keys.identify_session(token) is None
