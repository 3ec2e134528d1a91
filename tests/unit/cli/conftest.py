"""Commands that speak to a server which a test plays."""

import httpx
import pytest
from typer.testing import CliRunner

from cli.client import Client
from cli.main import app


@pytest.fixture
def sgg_to(monkeypatch):
    """The command line whose requests a function answers."""

    def of(answer):
        def from_environment(*, timeout=60.0):
            return Client("http://127.0.0.1:1/v1", "key", httpx.MockTransport(answer), timeout=timeout)

        monkeypatch.setattr(Client, "from_environment", from_environment)
        return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])

    return of
