"""The one table of routes: token, 404, 405, metrics' names and OpenAPI go by it."""

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bento import page
from bento.http import handlers
from bento.http.exchange import Call
from bento.http.reply import Reply
from bento.v2 import protocol
from toolkit.model.answer import Batch, Explanation, Info, Prediction

if TYPE_CHECKING:
    from bento.http.app import Interface

Handler = Callable[["Interface", Call], Awaitable[Reply]]
_UPLOAD = (400, 408, 413, 415, 422, 503)
_OTHER = "other"


@dataclass(frozen=True)
class Route:
    """One path.

    Attributes:
        path: that it answers; a part in braces may be anything, and is a parameter of the call.
        handler: what answers.
        summary: for the OpenAPI document, which leaves out a route without.
        answer: the type of its answer as JSON; None for any object.
        kinds: media types of its answer.
        success: the status of its answer.
        others: further statuses that its handler may answer with.
        body: a key of `openapi.bodies`; a route with one takes POST, any other GET and HEAD.
        is_open: whether it is answered without the service's token.
    """

    path: str
    handler: Handler
    summary: str = ""
    answer: type | None = None
    kinds: tuple[str, ...] = ("application/json",)
    success: int = 200
    others: tuple[int, ...] = ()
    body: str = ""
    is_open: bool = False

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods that it takes."""
        return ("POST",) if self.body else ("GET", "HEAD")

    @property
    def name(self) -> str:
        """What metrics and logs call it."""
        return _first_part(self.path)


def find(path: str) -> tuple[Route | None, dict[str, str]]:
    """Return the route of a path with the parameters in it; None where there is none."""
    route = _FIXED.get(path)
    if route is None:
        for pattern, open_route in _PATTERNS:
            if match := pattern.fullmatch(path):
                return open_route, match.groupdict()
    return route, {}


def name_of(path: str) -> str:
    """Return what metrics and logs call a path that has no route."""
    # `OPTIONS *` is of the server as a whole.
    first = _first_part(path) if path.startswith("/") else _OTHER
    return first if first in ("app", "v2") else _OTHER


def _first_part(path: str) -> str:
    return path.split("/")[1].partition(".")[0] or "app"


def _of_model(path: str) -> tuple[Route, ...]:
    """Return the routes below a model's path, which may name its version."""
    return (
        Route(path, protocol.model, "Inputs and outputs of the model.", others=(404, 503)),
        Route(
            f"{path}/ready",
            protocol.model_ready,
            "Whether the model is ready.",
            protocol.Ready,
            others=(404, 503),
        ),
        Route(
            f"{path}/infer",
            protocol.infer,
            "Outputs of X-rays, as JSON or as raw bytes after it.",
            kinds=("application/json", "application/octet-stream"),
            others=(400, 404, 408, 413, 415, 429, 503),
            body="tensors",
        ),
    )


ROUTES = (
    Route("/predict", handlers.predict, "Class and probabilities of one X-ray.", Prediction,
          others=_UPLOAD, body="file"),
    Route("/predict_batch", handlers.predict_batch,
          "Several X-rays, each answered or refused by itself.", Batch,
          others=_UPLOAD, body="files"),
    Route("/explain", handlers.explain,
          "Which regions of the X-ray and of its views the decision went by; with "
          "`Accept: image/png` the picture itself.", Explanation,
          kinds=("application/json", "image/png"), others=(*_UPLOAD, 404), body="file"),
    Route("/info", handlers.info, "What is served, its proof, and whether it is ready.", Info),
    Route("/livez", handlers.livez, "200 while no model is stuck.", others=(503,), is_open=True),
    Route("/readyz", handlers.readyz, "200 while the model answers.", others=(503,), is_open=True),
    Route("/metrics", handlers.metrics, "Counters in Prometheus' text format.",
          kinds=("text/plain",)),
    Route("/docs.json", handlers.docs, "This document."),
    Route("/", page.leading(b"app"), "To the page at /app.", kinds=(), success=307, is_open=True),
    Route("/app", page.file(page.START), "A page to drop X-rays on.", kinds=("text/html",),
          others=(304,), is_open=True),
    Route("/app/", page.leading(b"../app"), "To the page at /app.", kinds=(), success=307,
          is_open=True),
    *(Route(f"/app/{name}", page.file(name), is_open=True) for name in page.FILES),
    Route("/v2", protocol.server, "Name, version and extensions of the server."),
    Route("/v2/health/live", protocol.live, "200 while no model is stuck, else 503.",
          others=(503,), is_open=True),
    Route("/v2/health/ready", protocol.ready, "200 once it takes requests, else 503.",
          protocol.Ready, others=(503,), is_open=True),
    *_of_model("/v2/models/{name}"),
    *_of_model("/v2/models/{name}/versions/{version}"),
)  # fmt: skip
NAMES = (*dict.fromkeys(route.name for route in ROUTES), _OTHER)
"""What metrics and logs call the routes."""
_FIXED = {route.path: route for route in ROUTES if "{" not in route.path}
_PATTERNS = [
    (re.compile(re.sub(r"{(\w+)}", r"(?P<\1>[^/]+)", route.path)), route)
    for route in ROUTES
    if "{" in route.path
]
