"""The HTTP interface: one ASGI callable, so that little lies between a socket and the model."""

import re
import secrets
import traceback
from asyncio import CancelledError
from collections.abc import Awaitable, Callable, MutableMapping
from functools import partial
from itertools import count
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bento import page, protocol
from bento.engine import Answer, Engine
from bento.explaining import Explainer
from bento.information import Information
from bento.log import Log
from bento.metrics import CONTENT_TYPE, Metrics
from bento.openapi import document
from bento.reply import Reply, in_json, problem_of, refusal
from bento.session import Predictor
from bento.upload import Body, Memory, Receive
from toolkit.errors import ImageError, RequestError

if TYPE_CHECKING:
    from starlette.routing import BaseRoute

Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

ROUTES = (
    *("predict", "predict_batch", "explain", "info", "livez", "readyz", "metrics", "docs"),
    *("app", "v2", "other"),
)
"""What metrics and logs call the routes."""
_SANE_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
_PROBES = ("/livez", "/readyz")
# A request's own id: unlike any other's, and cheap.
_PREFIX = secrets.token_hex(8).encode()
_COUNT = count()
# X-rays of a batch that run in one turn: others' requests come in between.
_TURN = 4


def other_routes(interface: "Interface") -> "list[BaseRoute]":
    """Return the Starlette routes of other modules; this is the one place to add them.

    They get what the interface's own handlers get: the token is checked, bodies are limited, what
    they raise becomes a problem document. X-rays go through `interface.engine`.
    """

    async def run(xrays: NDArray[np.uint8], names: tuple[str, ...]) -> dict[str, NDArray[Any]]:
        found: list[dict[str, NDArray[Any]]] = []
        for start in range(0, len(xrays), _TURN):
            turn = xrays[start : start + _TURN]
            found.append(await interface.engine.run(partial(_outputs, list(names), turn)))
        return {name: np.concatenate([each[name] for each in found]) for name in names}

    information = interface.information
    return [
        *page.routes(),
        *protocol.routes(information, run, lambda: not interface.engine.reason),
    ]


class Call:
    """One request.

    Attributes:
        path: of its URL.
        id: the header x-request-id if it is sane, else a new one.
        body: not read yet.
        noted: what the log says of it besides.
    """

    def __init__(self, scope: Scope, receive: Receive, memory: Memory) -> None:
        self.started = perf_counter()
        self.path: str = scope["path"]
        self.method: str = scope["method"]
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        given = self.headers.get(b"x-request-id", b"")
        sane = _SANE_ID.fullmatch(given) is not None
        self.id = given if sane else b"%s%016x" % (_PREFIX, next(_COUNT))
        self.body = Body(
            receive,
            self.headers.get(b"content-type", b""),
            self.headers.get(b"content-length", b""),
            memory,
        )
        self.noted: dict[str, Any] = {}


Handler = Callable[[Call], Awaitable[Reply]]


class Interface:
    """The handlers over one model; an ASGI application.

    Args:
        information: what the model is.
        engine: runs it.
        explainer: explains it.
        counters: what is counted.
        log: a line for each request.
        token: what requests must bear; None for an open service.
    """

    def __init__(
        self,
        information: Information,
        engine: Engine,
        explainer: Explainer,
        counters: Metrics,
        log: Log,
        token: bytes | None = None,
    ) -> None:
        self.information = information
        self.engine = engine
        self._explainer = explainer
        self.metrics = counters
        self._log = log
        self._token = None if token is None else b"Bearer " + token
        self._memory = Memory()
        self._document = document(information.meaning)
        self._handlers: dict[str, tuple[str, dict[str, Handler]]] = {
            "/predict": ("predict", {"POST": self._predict}),
            "/predict_batch": ("predict_batch", {"POST": self._predict_batch}),
            "/explain": ("explain", {"POST": self._explain}),
            "/info": ("info", {"GET": self._info, "HEAD": self._info}),
            "/livez": ("livez", {"GET": self._livez, "HEAD": self._livez}),
            "/readyz": ("readyz", {"GET": self._readyz, "HEAD": self._readyz}),
            "/metrics": ("metrics", {"GET": self._counted, "HEAD": self._counted}),
            "/docs.json": ("docs", {"GET": self._docs, "HEAD": self._docs}),
        }
        self._others = _router(other_routes(self))

    async def start(self) -> None:
        """Start the threads, and wait until the model is open or cannot be opened."""
        self._log.start()
        await self.engine.start()

    def stop(self) -> None:
        """End the threads."""
        self.engine.stop()
        self._explainer.stop()
        self._log.stop()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        call = Call(scope, receive, self._memory)
        sender = _Sender(send, call.id)
        route = _route(call.path, self._handlers)
        self.metrics.add("requests_in_flight")
        try:
            reply = await self._replied(call, scope, sender)
            if reply is not None:
                await sender.reply(reply)
        finally:
            call.body.release()
            self.metrics.add("requests_in_flight", -1)
            seconds = perf_counter() - call.started
            self.metrics.answered(route, sender.status)
            self.metrics.seconds("request_seconds", seconds)
            self._log.line(
                "request",
                request_id=call.id.decode(),
                route=route,
                status=sender.status,
                ms=round(seconds * 1000, 2),
                **call.noted,
            )

    async def _replied(self, call: Call, scope: Scope, sender: "_Sender") -> Reply | None:
        """Return the reply; None where another module's route has sent its own."""
        try:
            self._check_token(call)
            found = self._handlers.get(call.path)
            if found is None:
                await self._others(scope, call.body.receive, sender)
                return None
            handler = found[1].get(call.method)
            if handler is None:
                raise _wrong_method(call.method, ", ".join(found[1]))
            return await handler(call)
        except (ImageError, RequestError) as error:
            known = error
        except CancelledError:
            raise
        except Exception as error:
            known = self._unknown(error, call)
        if sender.status:
            raise known
        call.noted["code"] = known.code
        return refusal(known)

    def _unknown(self, error: Exception, call: Call) -> RequestError:
        from starlette.exceptions import HTTPException

        if isinstance(error, HTTPException):
            if error.status_code == 405:
                return _wrong_method(call.method, (error.headers or {}).get("Allow", ""))
            if error.status_code == 404:
                return _no_such_route()
            return RequestError(error.status_code, "refused", error.detail)
        self._log.line(
            "error",
            "error",
            request_id=call.id.decode(),
            traceback="".join(traceback.format_exception(error)),
        )
        return RequestError(500, "internal", "this should not have happened; the log says more")

    def _check_token(self, call: Call) -> None:
        if self._token is None or call.path in _PROBES or _is_page(call):
            return
        if not secrets.compare_digest(call.headers.get(b"authorization", b""), self._token):
            raise RequestError(
                401,
                "unauthorized",
                "give the service's token as `Authorization: Bearer TOKEN`",
                www_authenticate="Bearer",
            )

    async def _predict(self, call: Call) -> Reply:
        self.engine.check()
        (answer,) = await self.engine.answers((await call.body.xray(),))
        if isinstance(answer, ImageError):
            raise answer
        self._note(answer)
        call.noted["class"] = answer["class"]
        return in_json(answer | self._origin())

    async def _predict_batch(self, call: Call) -> Reply:
        self.engine.check()
        items = await call.body.xrays()
        answers: list[Answer | ImageError] = []
        contents = [each for each in items if isinstance(each, bytes)]
        for start in range(0, len(contents), _TURN):
            answers += await self.engine.answers(contents[start : start + _TURN])
        results = iter(answers)
        each_one = [each if isinstance(each, ImageError) else next(results) for each in items]
        call.noted["xrays"] = len(each_one)
        return in_json(self._origin() | {"results": [self._result(each) for each in each_one]})

    def _result(self, answer: Answer | ImageError) -> dict[str, Any]:
        if isinstance(answer, ImageError):
            return {"problem": problem_of(answer)}
        self._note(answer)
        return {"prediction": answer}

    async def _explain(self, call: Call) -> Reply:
        self._explainer.check()
        self.engine.check()
        content = await call.body.xray()
        assert self.engine.predictor
        explanation = await self._explainer.explain(self.engine.predictor, content)
        call.noted["class"] = explanation.index
        if b"image/png" in call.headers.get(b"accept", b""):
            return Reply(200, explanation.heat, b"image/png")
        return in_json(explanation.as_dict())

    async def _info(self, call: Call) -> Reply:
        del call
        predictor = self.engine.predictor
        provider = predictor.provider if predictor else None
        return in_json(self.information.as_dict(provider, self.engine.reason))

    async def _livez(self, call: Call) -> Reply:
        del call
        return in_json({"live": True})

    async def _readyz(self, call: Call) -> Reply:
        del call
        if self.engine.reason:
            raise RequestError(503, "not_ready", self.engine.reason, retry_after="5")
        return in_json({"ready": True})

    async def _counted(self, call: Call) -> Reply:
        del call
        return Reply(200, self.metrics.text().encode(), CONTENT_TYPE.encode())

    async def _docs(self, call: Call) -> Reply:
        del call
        return in_json(self._document)

    def _origin(self) -> dict[str, str]:
        """Return what every answer says of the model that gave it."""
        assert self.engine.predictor
        return {
            "model": self.information.name,
            "model_sha256": self.information.sha256,
            "provider": self.engine.predictor.provider,
        }

    def _note(self, answer: Answer) -> None:
        self.metrics.add("predictions_total", 1.0, answer["class"])
        if answer.get("abstain"):
            self.metrics.add("abstentions_total")
        if answer.get("in_scope") is False:
            self.metrics.add("out_of_scope_total")


class _Sender:
    """ASGI's `send`, with the request's id on the answer.

    Attributes:
        status: of the answer; 0 before it was sent.
    """

    def __init__(self, send: Send, request_id: bytes) -> None:
        self.status = 0
        self._send = send
        self._id = (b"x-request-id", request_id)

    async def __call__(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message.get("headers", ()), self._id]
        await self._send(message)

    async def reply(self, reply: Reply) -> None:
        """Send a whole answer."""
        self.status = reply.status
        length = str(len(reply.body)).encode()
        headers = [(b"content-type", reply.kind), (b"content-length", length), self._id]
        start = {"type": "http.response.start", "status": reply.status}
        await self._send(start | {"headers": headers + reply.headers})
        await self._send({"type": "http.response.body", "body": reply.body})


def _outputs(
    names: list[str], xrays: NDArray[np.uint8], predictor: Predictor
) -> dict[str, NDArray[Any]]:
    return predictor.run(names, xrays)


def _router(routes: "list[BaseRoute]") -> Callable[[Scope, Receive, Send], Awaitable[None]]:
    from starlette.exceptions import HTTPException
    from starlette.routing import Router

    async def nowhere(scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive, send
        raise HTTPException(404)

    router = Router(routes, redirect_slashes=False, default=nowhere)

    async def routed(scope: Scope, receive: Receive, send: Send) -> None:
        # With an application in its scope, a route raises what it would else answer itself.
        await router({"app": routed} | dict(scope), receive, send)

    return routed


def _route(path: str, handlers: dict[str, tuple[str, dict[str, Handler]]]) -> str:
    found = handlers.get(path)
    if found:
        return found[0]
    if path == "/" or path == "/app" or path.startswith("/app/"):
        return "app"
    return "v2" if path.startswith("/v2") else "other"


def _is_page(call: Call) -> bool:
    """Whether the request is for the page's own files, which hold nothing."""
    return call.method in ("GET", "HEAD") and _route(call.path, {}) == "app"


def _no_such_route() -> RequestError:
    return RequestError(404, "no_such_route", "no such route: /docs.json lists them")


def _wrong_method(method: str, allowed: str) -> RequestError:
    return RequestError(
        405, "wrong_method", f"{method} is not answered here: use {allowed}", allow=allowed
    )
