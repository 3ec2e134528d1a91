"""Rate limits over HTTP, and where they are counted."""

from __future__ import annotations

import os
import time
from uuid import uuid4

import httpx
import pytest
from pydantic import ValidationError

from api.errors import RateLimitedError
from api.rates import RateLimiter
from api.settings import ApiSettings
from api.testing import serving

REDIS_URL = os.environ.get("SGG_TEST_REDIS_URL", "redis://127.0.0.1:6379/0")


def few(settings: ApiSettings, limit: str = "3/hour") -> ApiSettings:
    return settings.model_copy(update={"rate_limit": limit})


def test_what_exceeds_the_limit_is_refused_with_openais_headers(api_settings: ApiSettings) -> None:
    with serving(few(api_settings)) as server, server.http() as http:
        left = [http.get("/v1/files").headers["x-ratelimit-remaining-requests"] for _ in range(3)]
        assert left == ["2", "1", "0"]
        refused = http.get("/v1/files")
        error = refused.json()["error"]
        assert (refused.status_code, error["type"], error["code"]) == (429, "rate_limit_error", "rate_limit_exceeded")
        assert "3 requests per hour" in error["message"]
        assert refused.headers["x-ratelimit-limit-requests"] == "3"
        assert refused.headers["x-ratelimit-remaining-requests"] == "0"
        assert 1 <= int(refused.headers["retry-after"]) <= 3600
        assert refused.headers["x-ratelimit-reset-requests"].endswith("s")
        assert "x-should-retry" not in refused.headers


def test_each_key_has_its_own_count_and_health_and_strangers_none(api_settings: ApiSettings) -> None:
    with serving(few(api_settings)) as server:
        for key in (server.new_key(), server.new_key()):
            with server.http(key) as http:
                assert [http.get("/v1/models").status_code for _ in range(4)] == [200, 200, 200, 429]
        with httpx.Client(base_url=server.url, trust_env=False) as http:
            for _ in range(5):
                health = http.get("/health/live")
                assert health.status_code == 200 and "x-ratelimit-limit-requests" not in health.headers
                assert http.get("/v1/files").status_code == 401


def test_a_refused_change_changes_nothing_and_is_in_the_audit_log(api_settings: ApiSettings) -> None:
    with serving(few(api_settings, "1/hour")) as server:
        key = server.new_key()
        server.file_id(key=key)
        assert server.upload(b"", key=key).status_code == 429
        with server.http() as http:
            [entry] = http.get("/v1/organization/audit_logs", params={"outcomes[]": ["refused"]}).json()["data"]
        assert (entry["type"], entry["sgg"]["status"]) == ("file.created", 429)


def test_it_can_be_switched_off(api_settings: ApiSettings) -> None:
    with serving(few(api_settings, "off")) as server, server.http() as http:
        answer = http.get("/v1/files")
        assert answer.status_code == 200 and "x-ratelimit-limit-requests" not in answer.headers


def test_a_limit_that_cannot_be_read_is_told_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SGG_RATE_LIMIT", "many")
    with pytest.raises(ValidationError, match="100/minute"):
        ApiSettings()


def test_a_limit_that_would_lock_everybody_out_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("0/minute", "0 per hour"):
        monkeypatch.setenv("SGG_RATE_LIMIT", text)
        with pytest.raises(ValidationError, match="or off for no limit"):
            ApiSettings()
    monkeypatch.setenv("SGG_RATE_LIMIT", "1/hour")
    assert ApiSettings().rate_limit == "1/hour"


@pytest.mark.redis
def test_servers_with_one_redis_count_together() -> None:
    who = uuid4().hex
    first, second = (RateLimiter("2/hour", REDIS_URL) for _ in range(2))
    first.hit(who)
    second.hit(who)
    for limiter in (first, second):
        with pytest.raises(RateLimitedError):
            limiter.hit(who)


@pytest.mark.redis
def test_servers_that_count_in_portions_admit_all_of_the_limit_and_no_more() -> None:
    who = uuid4().hex
    limiters = [RateLimiter("300/hour", REDIS_URL) for _ in range(2)]
    admitted = 0
    while limiters:
        for limiter in list(limiters):
            try:
                limiter.hit(who)
                admitted += 1
            except RateLimitedError:
                limiters.remove(limiter)
    assert admitted == 300


def test_what_is_left_is_told_exactly_also_within_a_portion() -> None:
    limiter = RateLimiter("1000/hour", "memory://")
    assert not limiter.at_hand("who")
    left = [int(limiter.hit("who")["x-ratelimit-remaining-requests"]) for _ in range(25)]
    assert left == list(range(999, 974, -1))
    assert limiter.at_hand("who") and not limiter.at_hand("another")


def test_without_redis_nobody_is_refused_for_that_nor_waits_long() -> None:
    limiter = RateLimiter("2/hour", "redis://127.0.0.1:1/0")
    began = time.monotonic()
    limiter.hit("who")
    limiter.hit("who")
    with pytest.raises(RateLimitedError):
        limiter.hit("who")
    assert time.monotonic() - began < 2.0
