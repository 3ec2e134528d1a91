"""Bounds on a request's body: nobody waits for what does not come, and a stream that has begun is not broken off."""

import anyio
import anyio.lowlevel
import pytest
from starlette.exceptions import HTTPException

from api.middleware import BodyBound, BodyLimit

SCOPE = {"type": "http", "path": "/v1/x", "headers": []}


def limited(app, messages, *, seconds=0.05, most=10):
    """Run the app behind a bound, for a caller who sends these parts and then nothing; gives what was sent back."""
    parts, sent = list(messages), []

    async def receive():
        if not parts:
            await anyio.sleep(0.3)
            return {"type": "http.disconnect"}
        return parts.pop(0)

    async def send(message):
        sent.append(message)

    bound = BodyBound(most, "Too large.", seconds)
    anyio.run(BodyLimit(app, lambda path: bound), SCOPE, receive, send)
    return sent


def part(body, more=True):
    return {"type": "http.request", "body": body, "more_body": more}


async def reads_all(scope, receive, send):
    while (await receive()).get("more_body"):
        pass


@pytest.mark.parametrize(("parts", "status"), [([part(b"a")], 408), ([part(b"a" * 11, more=False)], 413)])
def test_a_body_that_stalls_or_is_too_large_is_refused(parts, status):
    with pytest.raises(HTTPException) as refused:
        limited(reads_all, parts)
    assert refused.value.status_code == status and refused.value.headers == {"connection": "close"}


def test_a_whole_body_may_be_followed_by_as_long_a_wait_as_the_answer_takes():
    async def streams(scope, receive, send):
        await reads_all(scope, receive, send)
        assert (await receive())["type"] == "http.disconnect"

    limited(streams, [part(b"a"), part(b"b", more=False)])


def test_a_body_without_end_behind_an_answer_that_has_begun_ends_it():
    async def streams(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        seen = [(await receive())["type"] for _ in range(3)]
        assert seen == ["http.request", "http.request", "http.disconnect"]

    limited(streams, [part(b"a" * 5)] * 10)


@pytest.mark.parametrize("looks_out_first", [True, False])
def test_an_answer_that_has_begun_does_not_end_for_a_body_that_never_came(looks_out_first):
    """As streams do it: they look out for the caller's leaving from before their first byte on."""

    async def streams(scope, receive, send):
        async def look_out():
            assert (await receive())["type"] == "http.disconnect"
            await send({"type": "http.response.body", "body": b"", "more_body": False})

        async with anyio.create_task_group() as tasks:
            if looks_out_first:
                tasks.start_soon(look_out)
                await anyio.lowlevel.checkpoint()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            if not looks_out_first:
                tasks.start_soon(look_out)

    assert [message["type"] for message in limited(streams, [])] == ["http.response.start", "http.response.body"]
