"""The page at /app: sends X-rays to the service that it came from, and shows what it says."""

from collections.abc import Awaitable, Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

from bento.http.exchange import Call
from bento.http.reply import Reply

_FOLDER = Path(__file__).parent
_KINDS = {
    ".css": b"text/css; charset=utf-8",
    ".html": b"text/html; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".svg": b"image/svg+xml",
}
START = "index.html"
FILES = sorted(path.name for path in _FOLDER.iterdir() if path.suffix in _KINDS.keys() - {".html"})
"""The names of the files that the page at `START` asks for."""
_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = [
    (b"cache-control", b"no-cache"),
    (b"permissions-policy", b"camera=(), display-capture=(), geolocation=(), microphone=()"),
    (b"referrer-policy", b"no-referrer"),
]


def leading(to: bytes) -> Callable[[Any, Call], Awaitable[Reply]]:
    """Return a handler that leads to the page, by a way that holds wherever the service lies."""

    async def answer(*_: Any) -> Reply:
        return Reply(307, b"", b"text/plain", [(b"location", to)])

    return answer


def file(name: str) -> Callable[[Any, Call], Awaitable[Reply]]:
    """Return the handler of a file of the page, which is read now."""
    path = _FOLDER / name
    content, kind = path.read_bytes(), _KINDS[path.suffix]
    tag = b'"%s"' % sha256(content).hexdigest()[:32].encode()
    headers = [*_HEADERS, (b"etag", tag)]

    async def answer(_: Any, call: Call) -> Reply:
        known = call.headers.get(b"if-none-match", b"").split(b",")
        if tag in map(bytes.strip, known):
            return Reply(304, b"", kind, headers, _POLICY)
        return Reply(200, content, kind, headers, _POLICY)

    return answer
