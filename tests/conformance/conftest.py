"""OpenAI's client in four guises: synchronous and asynchronous, each lenient and refusing what is not as described.

The client is whichever `openai` is imported first; `make test-conformance` puts one generation after another there.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from api.settings import ApiSettings
from api.testing import ApiServer, serving
from sgg_core.catalogue import BaseModelEntry
from sgg_store.database import upgrade_schema
from worker.embedded import start_embedded
from worker.testing import Workbench


class Client:
    """One client. `call` and `all` take the method's path as users write it: `fine_tuning.jobs.create`."""

    def __init__(self, server: ApiServer, *, is_async: bool = False, strict: bool = False, **options: Any) -> None:
        kind: Any = openai.AsyncOpenAI if is_async else openai.OpenAI
        options = {"base_url": server.base_url, "api_key": server.admin_key} | options
        self.strict = strict
        self._loop = asyncio.new_event_loop() if is_async else None
        self.raw = kind(**options, _strict_response_validation=strict)
        self.with_key = lambda key: Client(server, is_async=is_async, strict=strict, api_key=key)

    def call(self, path: str, *arguments: Any, **named: Any) -> Any:
        """Call a method and give what it answers."""
        return self._run(self._method(path)(*arguments, **named))

    def all(self, path: str, *arguments: Any, **named: Any) -> list[Any]:
        """Call a method that lists, and give the items of all its pages."""
        pages = self._method(path)(*arguments, **named)
        if self._loop is None:
            return list(pages)

        async def collect() -> list[Any]:
            return [item async for item in pages]

        return list(self._loop.run_until_complete(collect()))

    def each(self, path: str, *arguments: Any, **named: Any) -> Iterator[Any]:
        """The items of all pages, one by one as they are asked for."""
        pages = self._method(path)(*arguments, **named)
        if self._loop is None:
            yield from pages
            return
        items = pages.__aiter__()
        while True:
            try:
                yield self._loop.run_until_complete(items.__anext__())
            except StopAsyncIteration:
                return

    def streamed(self, path: str, **named: Any) -> Iterator[Any]:
        """Call a method that answers with a stream, and give its chunks."""
        stream = self._run(self._method(path)(**named))
        if self._loop is None:
            yield from stream
            return
        chunks = stream.__aiter__()
        while True:
            try:
                yield self._loop.run_until_complete(chunks.__anext__())
            except StopAsyncIteration:
                return

    def close(self) -> None:
        """Close its connections."""
        self._run(self.raw.close())
        if self._loop is not None:
            self._loop.close()

    def _method(self, path: str) -> Any:
        found = self.raw
        for name in path.split("."):
            found = getattr(found, name)
        return found

    def _run(self, answer: Any) -> Any:
        return answer if self._loop is None else self._loop.run_until_complete(_awaited(answer))


async def _awaited(answer: Any) -> Any:
    return await answer if hasattr(answer, "__await__") else answer


@pytest.fixture(scope="session", autouse=True)
def generation() -> str:
    """The version of the client, which must be the one that was asked for."""
    wanted = os.environ.get("SGG_CONFORMANCE_OPENAI")
    assert wanted in (None, openai.__version__)
    return openai.__version__


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    directory = tmp_path_factory.mktemp("conformance")
    settings = ApiSettings(data_dir=directory / "data", database_url=f"sqlite:///{directory}/sgg.sqlite3")
    upgrade_schema(settings.database_url)
    with serving(settings) as started:
        yield started


@pytest.fixture(scope="module")
def answering(tmp_path_factory: pytest.TempPathFactory, tiny: BaseModelEntry) -> Iterator[ApiServer]:
    """A server whose worker answers trials on the tiny base model."""
    bench = Workbench(tmp_path_factory.mktemp("answering") / "data", tiny)
    worker = start_embedded(bench.settings, bench.database, bench.objects)
    with serving(ApiSettings(data_dir=bench.settings.data_dir)) as started:
        yield started
    worker.stop()
    bench.close()


@pytest.fixture(params=["sync", "sync-strict", "async", "async-strict"])
def client(request: pytest.FixtureRequest, server: ApiServer) -> Iterator[Client]:
    made = Client(server, is_async="async" in request.param, strict="strict" in request.param)
    yield made
    made.close()
