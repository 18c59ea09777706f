"""What is sent back: JSON, problem documents (RFC 9457) and plain content."""

from dataclasses import dataclass, field
from http import HTTPStatus

import msgspec

from toolkit.errors import ImageError, RequestError
from toolkit.model.answer import Problem, ProtocolProblem

Headers = list[tuple[bytes, bytes]]
NO_SNIFFING = (b"x-content-type-options", b"nosniff")
NO_CONTENT = b"default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
"""The content-security-policy of what is no page, whatever a browser takes it for."""


@dataclass(frozen=True)
class Reply:
    """One answer, whole.

    Attributes:
        status: the HTTP status.
        body: its bytes.
        kind: the header content-type.
        headers: further ones; names in lower case.
        policy: the header content-security-policy.
    """

    status: int
    body: bytes
    kind: bytes = b"application/json"
    headers: Headers = field(default_factory=list)
    policy: bytes = NO_CONTENT

    def all_headers(self, identity: bytes) -> Headers:
        """Return every header of the answer to a request of this id."""
        headers = [
            (b"content-type", self.kind),
            (b"x-request-id", identity),
            (b"content-security-policy", self.policy),
            NO_SNIFFING,
            *self.headers,
        ]
        if self.status != HTTPStatus.NOT_MODIFIED:
            headers.append((b"content-length", b"%d" % len(self.body)))
        return headers


def in_json(content: object) -> Reply:
    """Return plain values, or one of the types of `toolkit.model.answer`, with status 200."""
    return Reply(200, msgspec.json.encode(content))


def problem_of(error: ImageError | RequestError) -> Problem:
    """Return the problem document of a refusal."""
    return Problem(HTTPStatus(error.status).phrase, error.status, error.code, str(error))


def refusal(error: ImageError | RequestError, by_protocol: bool = False) -> Reply:
    """Return a refusal as an answer; `by_protocol`, with the Open Inference Protocol's member."""
    problem = problem_of(error)
    if by_protocol:
        fields = (problem.title, problem.status, problem.code, problem.detail)
        problem = ProtocolProblem(*fields, error=problem.detail)
    headers = error.headers if isinstance(error, RequestError) else {}
    return Reply(
        error.status,
        msgspec.json.encode(problem),
        b"application/problem+json",
        [(name.encode(), value.encode("latin-1")) for name, value in headers.items()],
    )
