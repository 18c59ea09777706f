"""The Open Inference Protocol, version 2, over HTTP: what clients of KServe and Triton speak.

A model's version is the first 12 digits of the SHA-256 of the pipeline that was proven.
"""

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bento.http.reply import no_such_route, wrong_method
from bento.v2.tensors import (
    HEADER_LENGTH,
    INPUT,
    MAX_BODY,
    OUTPUT_TYPES,
    parse,
    render,
    too_large,
)
from toolkit import __version__
from toolkit.errors import RequestError
from toolkit.model.answer import Meaning
from toolkit.xray.reading import SIZE

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

Run = Callable[[NDArray[np.uint8], tuple[str, ...]], Awaitable[Mapping[str, NDArray[Any]]]]
"""Takes X-rays, uint8 (N, 224, 224), and the names of outputs; gives those outputs, (N, ...)."""

MODEL = "/v2/models/{name}"
VERSION = "/v2/models/{name}/versions/{version}"


class Served(Protocol):
    """What is told of a model.

    Attributes:
        name: of the model.
        sha256: of the pipeline file.
        meaning: of its probabilities.
        outputs: the names of what its graph gives; not asked for before it is ready.
    """

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def sha256(self) -> str:
        """Of the pipeline file."""

    @property
    def meaning(self) -> Meaning:
        """Of its probabilities."""

    @property
    def outputs(self) -> Sequence[str]:
        """The names of what its graph gives."""


def routes(
    model: Served,
    run: Run,
    ready: Callable[[], bool] = lambda: True,
    check_live: Callable[[], None] = lambda: None,
) -> "list[Route]":
    """Return the routes below /v2; each takes every method, and all else there is a 404.

    They raise what they refuse, as a RequestError, and leave its answer to the caller.

    Args:
        model: the one that is served.
        run: what computes the outputs, or raises an error that is a refusal.
        ready: whether the service takes requests.
        check_live: raises an error that is a refusal where it should be started anew.
    """
    from starlette.routing import Route

    answers = _Answers(model, run, ready, check_live)
    found = [
        ("/v2", "GET", answers.server),
        ("/v2/health/live", "GET", answers.live),
        ("/v2/health/ready", "GET", answers.ready),
    ]
    for path in (MODEL, VERSION):
        found += [
            (path, "GET", answers.model),
            (f"{path}/ready", "GET", answers.model_ready),
            (f"{path}/infer", "POST", answers.infer),
        ]
    found.append(("/v2/{rest:path}", "", _no_route))
    routes = [Route(path, _guarded(method, answer)) for path, method, answer in found]
    for each in routes:
        # The handlers look at it themselves: what they refuse says what they take.
        each.methods = None
    return routes


class _Answers:
    """The handlers over one model."""

    def __init__(
        self, model: Served, run: Run, ready: Callable[[], bool], check_live: Callable[[], None]
    ) -> None:
        self._model, self._run, self._is_ready = model, run, ready
        self._check_live = check_live
        self._version = model.sha256[:12]
        # Reading JSON keeps the interpreter to itself: several at once would only take memory.
        self._turn: Any = None

    async def server(self, request: "Request") -> "Response":
        del request
        return _json(
            {"name": "toolkit", "version": __version__, "extensions": ["binary_tensor_data"]}
        )

    async def live(self, request: "Request") -> "Response":
        del request
        self._check_live()
        return _json({"live": True})

    async def ready(self, request: "Request") -> "Response":
        del request
        return self._readiness({})

    async def model_ready(self, request: "Request") -> "Response":
        self._check_name(request)
        return self._readiness({"name": self._model.name})

    async def model(self, request: "Request") -> "Response":
        self._check_name(request)
        self._check_ready()
        rest = {"edge_map": [-1, SIZE, SIZE], "novelty": [-1]}
        scores = [-1, len(self._model.meaning.classes)]
        outputs = [
            {"name": each, "datatype": OUTPUT_TYPES[each], "shape": rest.get(each, scores)}
            for each in self._outputs()
        ]
        return _json(
            {
                "name": self._model.name,
                "versions": [self._version],
                "platform": "onnxruntime_onnx",
                "inputs": [{"name": INPUT, "datatype": "UINT8", "shape": [-1, SIZE, SIZE]}],
                "outputs": outputs,
            }
        )

    async def infer(self, request: "Request") -> "Response":
        from anyio import CapacityLimiter
        from anyio.to_thread import run_sync
        from starlette.responses import Response

        self._check_name(request)
        self._check_ready()
        encoding = request.headers.get("content-encoding", "identity")
        if encoding.lower() != "identity":
            # Little can become very much, and X-rays hardly become smaller.
            message = "the body is compressed: send it as it is"
            raise RequestError(415, "compressed", message)
        body = await _limited(request)
        self._turn = self._turn or CapacityLimiter(1)
        length = request.headers.get(HEADER_LENGTH)
        asked = await run_sync(parse, body, length, self._outputs(), limiter=self._turn)
        values = await self._run(asked.xrays, tuple(asked.outputs))
        content, headers = await run_sync(render, asked, self._model.name, self._version, values)
        return Response(content, headers=headers)

    def _readiness(self, content: dict[str, Any]) -> "Response":
        if self._is_ready():
            return _json(content | {"ready": True})
        return _json(content | {"ready": False}, 503, {"retry-after": "5"})

    def _check_ready(self) -> None:
        if not self._is_ready():
            message = "the model does not answer: /readyz says why"
            raise RequestError(503, "not_ready", message, retry_after="5")

    def _outputs(self) -> tuple[str, ...]:
        return tuple(each for each in OUTPUT_TYPES if each in self._model.outputs)

    def _check_name(self, request: "Request") -> None:
        asked = request.path_params
        if asked["name"] != self._model.name:
            raise _unknown(f"model is called {ascii(asked['name'])[:100]}", self._model.name)
        if asked.get("version", self._version) != self._version:
            raise _unknown(f"version {ascii(asked['version'])[:100]}", self._version)


def _guarded(
    method: str, answer: "Callable[[Request], Awaitable[Response]]"
) -> "Callable[[Request], Awaitable[Response]]":
    """Return a handler that takes one method."""

    async def handler(request: "Request") -> "Response":
        allowed = (method, "HEAD") if method == "GET" else (method,)
        if method and request.method not in allowed:
            raise wrong_method(request.method, ", ".join(allowed))
        return await answer(request)

    return handler


async def _no_route(request: "Request") -> "Response":
    del request
    raise no_such_route()


def _unknown(what: str, served: str) -> RequestError:
    return RequestError(404, "not_served", f"no {what}: {served} is served")


async def _limited(request: "Request") -> bytes:
    from starlette.requests import ClientDisconnect

    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and (len(declared) > 10 or int(declared) > MAX_BODY):
        raise too_large()
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY:
                raise too_large()
    except ClientDisconnect as error:
        message = "the connection ended before the body did"
        raise RequestError(400, "cut_off", message) from error
    return bytes(body)


def _json(
    content: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None
) -> "Response":
    from starlette.responses import Response

    # Starlette's own cannot write half of a surrogate pair, which a request may hold.
    return Response(json.dumps(content), status, headers, media_type="application/json")
