"""The commands' way to a daemon: its address, a key, one JSON request at a time, and what goes wrong in one line.

Commands that are clients (`keys`, `submit`, ...) talk HTTP like anybody else and never open the store (contract
section 4). `connect` reads `POINTSMAN_URL` and `POINTSMAN_API_KEY`, else finds the daemon that the settings of this
directory describe and the admin key that its first start has left. Exit codes are those of contract section 3: 3 when
the daemon cannot be reached, 1 when it refuses. Plain `http.client`, so that a command starts fast. Floor 4.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any, NoReturn
from urllib.parse import urlencode, urlsplit

import typer

from router.cli.complaint import UNREACHABLE, complain

CONNECT_TIMEOUT_S = 10.0
ANSWER_TIMEOUT_S = 60.0
ANSWER_MAX_BYTES = 64 << 20
EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - where a server that listens on all of them is asked


@dataclass(frozen=True, slots=True)
class Answer:
    """What the daemon said: HTTP status, headers, and the JSON body (None when it was no JSON)."""

    status: int
    headers: Mapping[str, str]
    body: Any

    @property
    def error(self) -> Mapping[str, Any]:
        """The error object of contract 5.5; empty when there is none."""
        error = self.body.get("error") if isinstance(self.body, dict) else None
        return error if isinstance(error, dict) else {}


@dataclass(frozen=True, slots=True)
class Client:
    """A daemon and the key to use there. `url` has no slash at its end; `key` None sends none.

    `quiet`: when the daemon cannot be reached, leave with the code and say nothing.
    """

    url: str
    key: str | None = field(default=None, repr=False)
    quiet: bool = False

    def ask(self, method: str, path: str, body: object = None, **more: Any) -> Any:
        """Send a request as `fetch` does and return the JSON of the answer; leave with the reason when refused."""
        answer = self.fetch(method, path, body, **more)
        if answer.status >= 400:
            refuse(answer)
        return answer.body

    def fetch(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        query: Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = ANSWER_TIMEOUT_S,
    ) -> Answer:
        """Send a request and return the answer whatever its status; leave with code 3 when there is none.

        `body` goes as JSON, `query` without what is None. `timeout_s` bounds each wait for bytes.
        """
        with self.open(method, path, body, query=query, headers=headers, timeout_s=timeout_s) as response:
            raw = response.read(ANSWER_MAX_BYTES)
            return Answer(response.status, dict(response.headers.items()), _json_of(raw))

    @contextmanager
    def open(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        query: Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = ANSWER_TIMEOUT_S,
    ) -> Iterator[HTTPResponse]:
        """The same with the answer as a file to be read bit by bit: event streams, downloads.

        A connection that breaks while it is read ends the command with code 3 too; any other failure is the reader's.
        """
        connection = _connection_to(self.url)
        try:
            try:
                connection.connect()
                connection.sock.settimeout(timeout_s)
                connection.request(method, _target(self.url, path, query), *self._parts_of(body, headers))
                response = connection.getresponse()
            except (OSError, HTTPException, UnicodeError) as broken:
                self._miss(broken)
            try:
                yield response
            except (ConnectionError, TimeoutError, ssl.SSLError, HTTPException) as broken:
                self._miss(broken)
        finally:
            connection.close()

    def _miss(self, broken: Exception) -> NoReturn:
        if self.quiet:
            raise typer.Exit(UNREACHABLE) from broken
        reason = getattr(broken, "strerror", None) or str(broken) or type(broken).__name__
        complain(f"cannot reach the daemon at {self.url}: {reason}", code=UNREACHABLE)

    def _parts_of(self, body: object, headers: Mapping[str, str] | None) -> tuple[bytes | None, dict[str, str]]:
        said = {"Accept": "application/json", **(headers or {})}
        if self.key is not None:
            said["Authorization"] = f"Bearer {self.key}"
        if body is None:
            return None, said
        return json.dumps(body).encode(), {"Content-Type": "application/json", **said}


def connect(*, admin: bool = False) -> Client:
    """Find the daemon and the key. `admin`: its operators' routes, which may have a listener of their own.

    The address is `POINTSMAN_URL`, else the settings' host and port. The key is `POINTSMAN_API_KEY`, else
    `POINTSMAN_ADMIN_KEY`, else the admin key file in the data directory, else none (`AUTH=disabled`).
    """
    from router.settings import SettingsInvalid, load_client_settings, load_settings

    try:
        said = load_client_settings()
        url, key = said.url, said.api_key.get_secret_value() if said.api_key is not None else None
        if url is None or key is None:
            settings = load_settings()
            host, port = (settings.host, settings.port)
            if admin and settings.admin_listener is not None:
                host, port = settings.admin_listener
            url = url or _url_of(host, port)
            key = key or (None if settings.admin_key is None else settings.admin_key.get_secret_value())
            key = key or settings.read_admin_key()
    except SettingsInvalid as invalid:
        complain(invalid.problems[0], invalid.problems[1:])
    return Client(url, key)


def refuse(answer: Answer) -> NoReturn:
    """Leave with the daemon's reason, in one line, and what may help."""
    error = answer.error
    message = " ".join(str(error.get("message") or f"the daemon answered {answer.status}").split())
    param = error.get("param")
    if param and str(param) not in message:
        message = f"{param}: {message}"
    more = ["set POINTSMAN_API_KEY to a key that may do this"] if answer.status in {401, 403} else []
    complain(message, more)


# -- parts ------------------------------------------------------------------------------------------------------------


def _connection_to(url: str) -> HTTPConnection:
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme == "https":
        return HTTPSConnection(host, parts.port, timeout=CONNECT_TIMEOUT_S, context=ssl.create_default_context())
    return HTTPConnection(host, parts.port, timeout=CONNECT_TIMEOUT_S)


def _target(url: str, path: str, query: Mapping[str, object] | None) -> str:
    """The path of a request below that of the address, with its query."""
    said = {name: value for name, value in (query or {}).items() if value is not None}
    return urlsplit(url).path + path + (f"?{urlencode(said)}" if said else "")


def _url_of(host: str, port: int) -> str:
    host = EVERYWHERE.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _json_of(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except ValueError:
        return None
