"""A small client of the SGG API: one method per verb, errors with a remedy, nothing hidden."""

from __future__ import annotations

import hashlib
import ipaddress
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from cli.errors import ApiError, CliError, ServerUnreachableError, cannot_read

DEFAULT_BASE_URL = "http://127.0.0.1:8000/v1"
RETRY_PAUSES = (0.5, 2.0)  # seconds
PAGE_SIZE = 100
KEY_CHARACTERS = re.compile(r"[\x21-\x7e]+")
KEY_REMEDY = "Set SGG_API_KEY, or point SGG_DATA_DIR at the server's data directory, whose admin-key file is used."


class Client:
    """Talks to one server with one API key. Use it as a context manager. `transport` replaces the network."""

    def __init__(
        self, base_url: str, api_key: str, transport: httpx.BaseTransport | None = None, *, timeout: float = 60.0
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self._http = httpx.Client(
            base_url=self.base_url,
            headers={"Authorization": f"Bearer {api_key}", "User-Agent": "sgg-cli"},
            timeout=httpx.Timeout(timeout, connect=min(timeout, 5.0)),
            transport=transport,
            trust_env=not _is_loopback(self.base_url),  # a company proxy cannot reach this machine's loopback
        )

    @classmethod
    def from_environment(cls, *, timeout: float = 60.0) -> Client:
        """Use SGG_BASE_URL and SGG_API_KEY, or the admin key of the data directory. Raises CliError without a key."""
        base_url = os.environ.get("SGG_BASE_URL") or DEFAULT_BASE_URL
        if not base_url.startswith(("http://", "https://")):
            raise CliError(
                f"SGG_BASE_URL is {base_url!r}.", f"It must be an http(s) address such as {DEFAULT_BASE_URL}."
            )
        api_key = os.environ.get("SGG_API_KEY") or _read_admin_key()
        if not KEY_CHARACTERS.fullmatch(api_key):
            raise CliError("The API key holds characters that never occur in a key.", KEY_REMEDY)
        try:
            return cls(base_url, api_key, timeout=timeout)
        except (httpx.InvalidURL, ImportError, ValueError) as error:  # the last two of proxies in the environment
            remedy = f"Set it to one such as {DEFAULT_BASE_URL}, and HTTPS_PROXY and ALL_PROXY to a proxy of http."
            raise CliError(f"SGG_BASE_URL {base_url!r} cannot be reached: {error}.", remedy) from error

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._http.close()

    def get(self, path: str, params: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """GET a JSON object."""
        return self._json("GET", path, params=params)

    def text(self, path: str, params: Mapping[str, Any] | None = None) -> str:
        """GET a text."""
        return self._answer("GET", path, params=params).text

    def post(
        self, path: str, body: Mapping[str, Any] | None = None, *, idempotency_key: str | None = None
    ) -> dict[str, Any]:
        """POST a JSON object, or nothing.

        With an idempotency key the server acts once however often it is asked, so a lost answer is asked for again.
        """
        if idempotency_key is None:
            return self._json("POST", path, json=body)
        for pause in RETRY_PAUSES:
            try:
                return self._json("POST", path, json=body, headers={"Idempotency-Key": idempotency_key})
            except ServerUnreachableError:
                time.sleep(pause)
        return self._json("POST", path, json=body, headers={"Idempotency-Key": idempotency_key})

    def delete(self, path: str) -> dict[str, Any]:
        """DELETE an object and return what the server says about it."""
        return self._json("DELETE", path)

    def upload(self, path: Path, purpose: str = "fine-tune") -> dict[str, Any]:
        """Upload a file and return its File object. Raises CliError when it cannot be read."""
        try:
            with path.open("rb") as stream:
                return self._json("POST", "/files", data={"purpose": purpose}, files={"file": (path.name, stream)})
        except OSError as error:
            raise cannot_read(path, error) from error

    def items(
        self,
        path: str,
        *,
        limit: int | None = None,
        filters: Mapping[str, Sequence[str]] | None = None,
    ) -> Iterator[dict[str, Any]]:
        """Yield the items of a list that pass the filters, page after page in the list's order, at most `limit`."""
        left, after = limit, None
        while left is None or left > 0:
            wanted = PAGE_SIZE if left is None else min(PAGE_SIZE, left)
            params: dict[str, Any] = {**(filters or {}), "limit": wanted}
            if after is not None:
                params["after"] = after
            page = self.get(path, params)
            yield from page["data"]
            left = None if left is None else left - len(page["data"])
            if not page["has_more"] or not page["data"]:
                return
            after = page["data"][-1]["id"]

    def download(self, path: str, destination: Path) -> str:
        """Stream an answer's bytes into a new file and return their sha256 as hex."""
        digest = hashlib.sha256()
        try:
            with self._http.stream("GET", path, follow_redirects=True) as response:
                if response.is_error:
                    response.read()
                    raise _refusal(response)
                with destination.open("xb") as out:
                    for chunk in response.iter_bytes():
                        digest.update(chunk)
                        out.write(chunk)
        except httpx.TransportError as error:
            raise self._unreachable(error) from error
        return digest.hexdigest()

    def _json(self, method: str, path: str, **arguments: Any) -> dict[str, Any]:
        response = self._answer(method, path, **arguments)
        try:
            answer = response.json()
        except ValueError as error:
            raise CliError(
                f"{self.base_url} did not answer with JSON.", "Check that SGG_BASE_URL ends in /v1 of an SGG server."
            ) from error
        return dict(answer)

    def _answer(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        try:
            response = self._http.request(method, path, follow_redirects=method == "GET", **arguments)
        except httpx.TransportError as error:
            raise self._unreachable(error) from error
        if response.is_redirect:  # a client that followed would send many of them as GET, without what they hold
            address = response.headers.get("location", "")
            raise CliError(
                f"{self.base_url} redirects to {address}.", "Set SGG_BASE_URL to the address that it redirects to."
            )
        if response.is_error:
            raise _refusal(response)
        return response

    def _unreachable(self, error: httpx.TransportError) -> ServerUnreachableError:
        return ServerUnreachableError(
            f"No answer from {self.base_url} ({type(error).__name__}).",
            "Start the server with `sgg serve`, or set SGG_BASE_URL to where it runs.",
        )


def _refusal(response: httpx.Response) -> CliError:
    try:
        body = response.json()
    except ValueError:
        body = None
    error = body.get("error") if isinstance(body, dict) else None
    if not isinstance(error, dict):
        error = {"message": f"The server answered {response.status_code} {response.reason_phrase}.", "code": None}
    message = str(error.get("message"))
    if response.status_code >= 502:
        return ServerUnreachableError(message, "The server is starting or overloaded; try again in a moment.")
    remedy = KEY_REMEDY if response.status_code == 401 else ""
    problems = (error.get("sgg") or {}).get("problems") or []
    if not problems and error.get("param"):
        problems = [{"param": error["param"], "message": message}]
    return ApiError(response.status_code, error.get("code"), message, remedy, problems)


def _is_loopback(base_url: str) -> bool:
    host = httpx.URL(base_url).host
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _read_admin_key() -> str:
    from sgg_store.settings import StoreSettings

    path = StoreSettings().data_dir / "admin-key"
    try:
        return path.read_text().strip()
    except FileNotFoundError as error:
        raise CliError(
            f"No API key: SGG_API_KEY is not set and {path} does not exist.",
            "Start the server with `sgg serve` (it writes the key), set SGG_DATA_DIR to its data directory, "
            "or set SGG_API_KEY.",
        ) from error
    except OSError as error:
        raise CliError(
            f"Cannot read {path}: {error.strerror}.", "Run as the server's user, or set SGG_API_KEY."
        ) from error
