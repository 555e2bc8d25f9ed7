"""How does the command line call the API? SHELL: one client, and an exit code for each way in which a call fails."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import httpx2

from shared.errors import HeadraceError

DEFAULT_URL = "http://127.0.0.1:8000/v1"
TIMEOUT_S = 60.0
# Longer than the API's own sign of life on a quiet stream.
STREAM_TIMEOUT_S = 40.0
FAILED, NOT_COMPLETED, REFUSED, UNREACHABLE = 1, 3, 4, 5


class CallFailed(HeadraceError):
    """What the user is told, and the exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class ApiClient:
    """Calls of one user; a context manager."""

    def __init__(self, base_url: str, api_key: str) -> None:
        self._base_url = base_url.rstrip("/")
        headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._client = httpx2.Client(headers=headers, timeout=TIMEOUT_S, follow_redirects=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def call(self, method: str, path: str, **more: Any) -> httpx2.Response:
        """An answer that is not an error; raises CallFailed."""
        try:
            response = self._client.request(method, f"{self._base_url}{path}", **more)
        except httpx2.HTTPError as error:
            raise self._unreachable(error) from None
        _check(response)
        return response

    def json(self, method: str, path: str, **more: Any) -> dict[str, Any]:
        """The body of an answer; raises CallFailed."""
        found: dict[str, Any] = self.call(method, path, **more).json()
        return found

    def pages(self, path: str, limit: int, **params: Any) -> Iterator[dict[str, Any]]:
        """The first so many objects of a list, page by page; raises CallFailed."""
        left, after = limit, ""
        while left > 0:
            more = {"after": after} if after else {}
            page = self.json("GET", path, params={"limit": min(left, 100)} | params | more)
            yield from page["data"][:left]
            left -= len(page["data"])
            if not page.get("has_more") or not page["data"]:
                return
            after = page["data"][-1]["id"]

    def lines(self, path: str, **more: Any) -> Iterator[str]:
        """The lines of an answer as they come; raises CallFailed."""
        try:
            with self._client.stream("GET", f"{self._base_url}{path}", timeout=STREAM_TIMEOUT_S, **more) as response:
                if response.is_error:
                    response.read()
                    _check(response)
                yield from response.iter_lines()
        except httpx2.HTTPError as error:
            raise self._unreachable(error) from None

    def _unreachable(self, error: Exception) -> CallFailed:
        text = f"no answer from {self._base_url} ({error}): is it running? set OPENAI_BASE_URL or --url"
        return CallFailed(text, UNREACHABLE)


def _check(response: httpx2.Response) -> None:
    if not response.is_error:
        return
    try:
        message = response.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = f"HTTP {response.status_code}"
    raise CallFailed(message, REFUSED if response.status_code in (401, 403) else FAILED)


def base_url(url: str, data: Path) -> str:
    """What was asked for, else OPENAI_BASE_URL, else the stack that runs in the data folder, else this machine's."""
    if chosen := url or os.environ.get("OPENAI_BASE_URL", ""):
        return chosen
    try:
        found: str = json.loads((data / "run" / "stack.json").read_text())["api"]
    except (OSError, ValueError, KeyError):
        return DEFAULT_URL
    return found


def api_client(url: str, data: Path) -> ApiClient:
    """A client with the key of OPENAI_API_KEY."""
    return ApiClient(base_url(url, data), os.environ.get("OPENAI_API_KEY", ""))
