"""HTTP requests that may be sent again, over connections that are kept open.

It uses the standard library alone, and knows nothing of X-rays.
"""

import os
import random
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from http.client import (
    HTTPConnection,
    HTTPException,
    HTTPResponse,
    HTTPSConnection,
    IncompleteRead,
)
from urllib.parse import urlsplit

from toolkit import __version__
from toolkit.errors import ServiceError, UsageError

_SCHEMES = ("http://", "https://")
BUSY = (429, 502, 503, 504)
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.1, 5.0
_LARGEST_ANSWER = 16_000_000
_SHOWN = 300


def is_address(text: str) -> bool:
    """Return whether a text is meant as the address of a service."""
    return text.lower().startswith(_SCHEMES)


def plain(text: object) -> str:
    """Return what a server said as one short line that does nothing to a terminal."""
    shown = "".join(each if each.isprintable() else " " for each in str(text)[:_SHOWN])
    return " ".join(shown.split())


class Transport:
    """The connections to one server. Threads may share it.

    Args:
        url: http://HOST:PORT or https://HOST:PORT, and maybe a path.
        token: sent as `Authorization: Bearer`; without it, TOOLKIT_TOKEN of the environment.
        timeout_s: of one attempt, seconds.
        deadline_s: of one answer with all attempts, seconds.

    Raises:
        UsageError: an address or a token that cannot be used.
    """

    def __init__(self, url: str, token: str | None, timeout_s: float, deadline_s: float) -> None:
        self.url, self._path, self._connect = _address(url)
        self._headers = _headers(os.environ.get("TOOLKIT_TOKEN") if token is None else token)
        self._timeout_s, self._deadline_s = timeout_s, deadline_s
        self._idle: deque[HTTPConnection] = deque()
        self._in_use: set[socket.socket] = set()
        self._closed = threading.Event()

    def close(self) -> None:
        """Close every connection; requests of other threads fail at once."""
        self._closed.set()
        for each in tuple(self._in_use):
            _hang_up(each)
        self._drop_idle()

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        """Return status and body of the answer; that it is busy only when time is up.

        Raises:
            ServiceError: there was no answer before the deadline.
        """
        end = time.monotonic() + self._deadline_s
        wait = _FIRST_WAIT_S
        while True:
            trouble, asked_for = None, 0.0
            try:
                status, content, asked_for = self._exchange(method, path, body, end)
                if status not in BUSY:
                    return status, content
            except socket.gaierror as error:
                raise ServiceError(f"{self.url} cannot be found: {error.strerror}") from error
            except (OSError, HTTPException) as error:
                self._drop_idle()  # they went the same way
                trouble = ServiceError(f"{self.url} does not answer: {_reason(error)}")
            pause = asked_for + wait * random.uniform(0.5, 1.0)  # noqa: S311
            if time.monotonic() + pause >= end or self._closed.wait(pause):
                if trouble:
                    raise trouble
                return status, content
            wait = min(2 * wait, _LONGEST_WAIT_S)

    def _exchange(
        self, method: str, path: str, body: bytes | None, end: float
    ) -> tuple[int, bytes, float]:
        """Return status, body and `Retry-After` (seconds, else 0) of one attempt."""
        seconds = max(0.001, min(self._timeout_s, end - time.monotonic()))
        connection = self._connection(seconds)
        line: socket.socket = connection.sock
        self._in_use.add(line)
        # The socket's own time-out starts anew with every byte that trickles in.
        guard = threading.Timer(seconds, _hang_up, (line,))
        guard.daemon = True
        guard.start()
        keep = False
        try:
            if self._closed.is_set():
                raise ServiceError(f"{self.url} was being asked when the client was closed")
            with suppress(BrokenPipeError):  # it may have answered before it had the whole body
                connection.request(method, self._path + path, body, self._headers)
            with connection.getresponse() as response:
                content = response.read(_LARGEST_ANSWER + 1)
                if len(content) > _LARGEST_ANSWER:
                    raise ServiceError(f"{self.url} answers with over {_LARGEST_ANSWER:,} bytes")
                if response.length:
                    raise IncompleteRead(content, response.length)
                keep = not response.will_close
            return response.status, content, _seconds(response)
        finally:
            guard.cancel()
            self._in_use.discard(line)
            if keep:
                self._idle.append(connection)
            else:
                connection.close()

    def _connection(self, seconds: float) -> HTTPConnection:
        try:
            connection = self._idle.pop()
            connection.sock.settimeout(seconds)
        except IndexError:
            connection = self._connect(timeout=seconds)
            connection.connect()
        return connection

    def _drop_idle(self) -> None:
        with suppress(IndexError):
            while True:
                self._idle.pop().close()


def _address(url: str) -> tuple[str, str, Callable[..., HTTPConnection]]:
    """Return an address without a slash at its end, its path, and what connects to it."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        parts, host, port = urlsplit(""), None, None
    if "@" in parts.netloc or parts.query or parts.fragment:
        # It is not repeated: a password may be in it.
        raise UsageError(
            "the address of a service has no user name, ? or #: give http://HOST:PORT, and a "
            "token in TOOLKIT_TOKEN"
        )
    if not is_address(url) or not host or not _is_plain(url):
        raise UsageError(f"{plain(url)} is no address of a service: give http://HOST:PORT")
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    return url.rstrip("/"), parts.path.rstrip("/"), partial(kind, host, port)


def _headers(token: str | None) -> dict[str, str]:
    headers = {
        "Content-Type": "application/octet-stream",
        "User-Agent": f"toolkit/{__version__}",
    }
    if token:
        if not _is_plain(token):
            raise UsageError("the token holds a blank or a character that no header may carry")
        headers["Authorization"] = f"Bearer {token}"
    return headers


def _is_plain(text: str) -> bool:
    return text.isascii() and text.isprintable() and " " not in text


def _hang_up(line: socket.socket) -> None:
    with suppress(OSError):
        # The plain socket's, with TLS too: another thread may be reading from it.
        socket.socket.shutdown(line, socket.SHUT_RDWR)


def _seconds(response: HTTPResponse) -> float:
    text = response.headers.get("Retry-After", "")
    return float(text) if text.isascii() and text.isdecimal() else 0.0


def _reason(error: Exception) -> str:
    return plain(getattr(error, "strerror", None) or error or type(error).__name__)
