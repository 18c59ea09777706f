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
    return _refusal(error, problem_of(error))


def protocol_refusal(error: ImageError | RequestError) -> Reply:
    """Return a refusal that has beside the problem's members the Open Inference Protocol's own."""
    return _refusal(error, {"error": str(error)} | problem_of(error))


def _refusal(error: ImageError | RequestError, content: dict[str, Any]) -> Reply:
    headers = error.headers if isinstance(error, RequestError) else {}
    return Reply(
        error.status,
        json.dumps(content).encode(),
        _PROBLEM,
        [(name.encode(), value.encode("latin-1")) for name, value in headers.items()],
    )


def no_such_route() -> RequestError:
    """Return the refusal of a path that leads nowhere."""
    return RequestError(404, "no_such_route", "no such route: /docs.json lists them")


def wrong_method(method: str, allowed: str) -> RequestError:
    """Return the refusal of a method on a path that takes the `allowed` ones."""
    return RequestError(
        405, "wrong_method", f"{method} is not answered here: use {allowed}", allow=allowed
    )
