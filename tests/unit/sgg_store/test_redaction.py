"""No secret passes, whatever it is wrapped in; what is no secret stays readable."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sgg_store.redaction import HIDDEN, redacted

SECRET = "Xq7-_vE2mN0bT4rW8yZ1"
ADDRESSES = ["postgresql+psycopg://sgg:{}@db:5432/sgg", "redis://:{}@redis:6379/0", "s3://key:{}@host/bucket"]
PLACES = [
    "sgg_0123456789abcdef_{}",
    "whsec_abc+/{}",
    "Authorization: Bearer {}",
    "authorization: sgg_0123_{}",
    "{{'Authorization': 'Bearer {}'}}",
    "[(b'authorization', b'Bearer {}')]",
    "curl -H 'authorization: bearer {}'",
    "host=db user=sgg password={} dbname=sgg",
    "https://store/bucket/key?X-Amz-Signature={}&X-Amz-Expires=60",
    *ADDRESSES,
]


@pytest.mark.parametrize("place", PLACES)
def test_a_secret_in_a_text_is_hidden_and_the_rest_stays(place: str) -> None:
    text = f"before {place.format(SECRET)} after"
    clean = redacted(text)
    assert SECRET not in clean and HIDDEN in clean
    assert clean.startswith("before ") and clean.endswith(" after")


@pytest.mark.parametrize("name", ["password", "Authorization", "SGG_API_KEY", "secret_hash", "token", "s3_secret_key"])
def test_what_is_named_as_a_secret_is_hidden_whole(name: str) -> None:
    assert redacted(SECRET, name) == HIDDEN
    assert redacted({"headers": [{name: SECRET}]}) == {"headers": [{name: HIDDEN}]}


def test_objects_and_exceptions_are_searched_too() -> None:
    class Settings:
        def __repr__(self) -> str:
            return f"Settings(url='redis://:{SECRET}@host')"

    key = f"sgg_ab_{SECRET}"
    for value in (Settings(), ValueError(f"no answer from redis://u:{SECRET}@h"), (key,), {key: 1}):
        assert SECRET not in str(redacted(value)) and HIDDEN in str(redacted(value))


def test_the_id_of_a_key_stays() -> None:
    assert redacted(f"key sgg_0a1b_{SECRET}") == f"key sgg_0a1b_{HIDDEN}"


@pytest.mark.parametrize(
    "text",
    [
        "http://127.0.0.1:8000/v1/files/file-123",
        "ftjob-123 ended: 3 of 12 tokens at step 7",
        "Bearer of bad news",
        "sgg_store.leases",
        "sgg_core",
        "authorization is needed",
    ],
)
def test_what_is_no_secret_stays_as_it_is(text: str) -> None:
    assert redacted(text) == text
    assert redacted({"trained_tokens": 5, "tokens": 1.5, "ok": True, "none": None}) == {
        "trained_tokens": 5, "tokens": 1.5, "ok": True, "none": None,
    }  # fmt: skip


URL_SAFE = st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_", min_size=20, max_size=60)


@given(secret=URL_SAFE, address=st.sampled_from(ADDRESSES), around=st.text(" \n,;:'\"()[]{}=", max_size=5))
def test_no_password_or_key_survives_its_surroundings(secret: str, address: str, around: str) -> None:
    assert secret not in redacted(f"{around}{address.format(secret)}{around}")
    assert secret not in redacted(f"{around}sgg_00ff_{secret}{around}")


@pytest.mark.parametrize("piece", ["a.", "a-", "a://:", "a://b:c", "sgg_", "bearer ", "authorization ", "password="])
def test_a_long_text_takes_no_longer_than_its_length_asks_for(piece: str) -> None:
    text = piece * (60_000 // len(piece))  # as long as a path may be, of a request by anyone
    begun = time.process_time()
    redacted(text)
    assert time.process_time() - begun < 1
