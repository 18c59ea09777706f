"""HTTP requests that may be sent again, over connections that are kept open.

urllib3 connects, keeps connections and reads. What is added is a time-out of an attempt as a whole:
a socket's own starts anew with every byte that trickles in.
"""

import http.client
import io
import os
import random
import socket
import threading
import time
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit
from weakref import WeakSet

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError, IncompleteRead, InvalidHeader, NameResolutionError

from toolkit import __version__
from toolkit.errors import ServiceError, UsageError

_SCHEMES = ("http://", "https://")
BUSY = (429, 502, 503, 504)
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.1, 5.0
_LARGEST_ANSWER = 16_000_000
_LONGEST_TEXT = 300


def is_address(text: str) -> bool:
    """Return whether a text is meant as the address of a service."""
    return text.lower().startswith(_SCHEMES)


def plain(text: object) -> str:
    """Return what a server said as one short line that does nothing to a terminal."""
    letters = (each if each.isprintable() else " " for each in str(text)[:_LONGEST_TEXT])
    return " ".join("".join(letters).split())


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
        _check_address(url)
        self.url = url.rstrip("/")
        self._path = urlsplit(self.url).path
        self._headers = _headers(os.environ.get("TOOLKIT_TOKEN") if token is None else token)
        self.sends_token = "Authorization" in self._headers
        self._timeout_s, self._deadline_s = timeout_s, deadline_s
        self._closed = threading.Event()
        self._connections: WeakSet[HTTPConnection] = WeakSet()
        self._pool = urllib3.connection_from_url(
            self.url, maxsize=256, listed=self._connections, closed=self._closed
        )
        is_tls = isinstance(self._pool, urllib3.HTTPSConnectionPool)
        self._pool.ConnectionCls = _TlsConnection if is_tls else _Connection

    def close(self) -> None:
        """Close every connection; requests of other threads fail at once."""
        self._closed.set()
        for connection in tuple(self._connections):
            with suppress(OSError, TypeError):
                # The plain socket's, with TLS too: another thread may be reading from it.
                socket.socket.shutdown(connection.sock, socket.SHUT_RDWR)
        self._pool.close()

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
                status, content, asked_for = self._attempt(method, path, body, end)
                if status not in BUSY:
                    return status, content
            except NameResolutionError as error:
                raise ServiceError(f"{self.url} cannot be found: {_reason(error)}") from error
            except (OSError, HTTPError, http.client.HTTPException) as error:
                trouble = ServiceError(f"{self.url} does not answer: {_reason(error)}")
            pause = asked_for + wait * random.uniform(0.5, 1.0)  # noqa: S311
            if time.monotonic() + pause >= end or self._closed.wait(pause):
                if trouble:
                    raise trouble
                return status, content
            wait = min(2 * wait, _LONGEST_WAIT_S)

    def _attempt(
        self, method: str, path: str, body: bytes | None, end: float
    ) -> tuple[int, bytes, float]:
        """Return status, body and `Retry-After` (seconds, else 0) of one attempt."""
        if self._closed.is_set():
            raise ServiceError(f"{self.url} was asked after the client was closed")
        response = self._pool.urlopen(
            method,
            self._path + path,
            body,
            self._headers,
            retries=False,
            redirect=False,
            timeout=urllib3.Timeout(max(0.001, min(self._timeout_s, end - time.monotonic()))),
            preload_content=False,
            decode_content=False,
        )
        try:
            content = response.read(_LARGEST_ANSWER + 1)
            if len(content) > _LARGEST_ANSWER:
                raise ServiceError(f"{self.url} answers with over {_LARGEST_ANSWER:,} bytes")
            if response.length_remaining:
                raise IncompleteRead(len(content), response.length_remaining)
        except BaseException:
            response.close()
            raise
        finally:
            response.release_conn()
        asked_for = None
        # A number too long to read, or a date that there is none of, is a ValueError.
        with suppress(InvalidHeader, ValueError, OverflowError):
            asked_for = urllib3.Retry().get_retry_after(response)
        return response.status, content, asked_for or 0.0


class _Reader(io.RawIOBase):
    """Reads a connection until the time is up that one read of it may take."""

    def __init__(self, sock: socket.socket, raw: io.RawIOBase) -> None:
        self._sock, self._raw = sock, raw
        self._end = time.monotonic() + (sock.gettimeout() or 0.0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(max(0.001, self._end - time.monotonic()))
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    """An answer whose head and body have to come in the time of one read."""

    def __init__(self, sock: socket.socket, *args: Any, **more: Any) -> None:
        super().__init__(sock, *args, **more)
        self.fp = io.BufferedReader(_Reader(sock, self.fp.detach()))


class _Connection(HTTPConnection):
    """A connection that is listed, and of no use once `closed` is set."""

    response_class = _Response

    def __init__(
        self, *args: Any, listed: "WeakSet[HTTPConnection]", closed: threading.Event, **more: Any
    ) -> None:
        super().__init__(*args, **more)
        self._closed = closed
        listed.add(self)

    def connect(self) -> None:
        super().connect()
        if self._closed.is_set():
            self.close()
            raise ConnectionAbortedError(None, "the client was closed")


class _TlsConnection(_Connection, HTTPSConnection):
    pass


def _check_address(url: str) -> None:
    try:
        parts = urlsplit(url)
        host = parts.hostname if parts.port != 0 else None
    except ValueError:
        parts, host = urlsplit(""), None
    if "@" in parts.netloc or parts.query or parts.fragment:
        # It is not repeated: a password may be in it.
        raise UsageError(
            "the address of a service has no user name, ? or #: give http://HOST:PORT, and a "
            "token in TOOLKIT_TOKEN"
        )
    if not is_address(url) or not host or not _is_plain(url):
        raise UsageError(f"{plain(url)} is no address of a service: give http://HOST:PORT")


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


def _reason(error: BaseException) -> str:
    """Return why in the system's own words, where they are among the causes."""
    cause = error
    while not getattr(cause, "strerror", None) and (cause.__cause__ or cause.__context__):
        cause = cause.__cause__ or cause.__context__ or cause
    return plain(getattr(cause, "strerror", None) or cause or type(cause).__name__)
