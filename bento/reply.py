"""What is sent back: JSON, problem documents (RFC 9457) and plain content."""

import json
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from toolkit.errors import ImageError, RequestError

_JSON = b"application/json"
_PROBLEM = b"application/problem+json"


@dataclass(frozen=True)
class Reply:
    """One answer, whole.

    Attributes:
        status: the HTTP status.
        body: its bytes.
        kind: the header content-type.
        headers: further ones; names in lower case.
    """

    status: int
    body: bytes
    kind: bytes = _JSON
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)


def in_json(content: Any) -> Reply:
    """Return plain values as an answer with status 200."""
    return Reply(200, json.dumps(content, allow_nan=False).encode())


def problem_of(error: ImageError | RequestError) -> dict[str, Any]:
    """Return the problem document of a refusal, with a stable `code`."""
    return {
        "title": HTTPStatus(error.status).phrase,
        "status": error.status,
        "code": error.code,
        "detail": str(error),
    }


def refusal(error: ImageError | RequestError) -> Reply:
    """Return a refusal as an answer."""
    headers = error.headers if isinstance(error, RequestError) else {}
    return Reply(
        error.status,
        json.dumps(problem_of(error)).encode(),
        _PROBLEM,
        [(name.encode(), value.encode("latin-1")) for name, value in headers.items()],
    )
