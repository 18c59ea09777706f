"""The HTTP interface: one ASGI callable, so that little lies between a socket and the model."""

import secrets
import traceback
from asyncio import CancelledError, sleep
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any

from bento.http.exchange import Call, Scope, Send, Sender
from bento.http.openapi import document
from bento.http.reply import (
    Reply,
    in_json,
    no_such_route,
    problem_of,
    protocol_refusal,
    refusal,
    wrong_method,
)
from bento.http.routes import OTHERS, name_of, other_routes
from bento.http.upload import Memory, Receive
from bento.worker.counters import CONTENT_TYPE, Metrics
from bento.worker.engine import TURN, Answer, Engine
from bento.worker.explaining import Explainer
from bento.worker.information import Information
from bento.worker.log import Log
from toolkit.errors import ImageError, RequestError

Handler = Callable[[Call], Awaitable[Reply]]

ROUTES = (
    *("predict", "predict_batch", "explain", "info", "livez", "readyz", "metrics", "docs"),
    *OTHERS,
)
"""What metrics and logs call the routes."""
_HELD_BACK_S = 0.07
_PROBES = ("/livez", "/readyz")


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
        self._others = other_routes(information, engine, self.check_live)

    async def start(self) -> None:
        """Start the threads, and wait until the model is open or cannot be opened."""
        self._log.start()
        await self.engine.start()

    def stop(self) -> None:
        """End the threads."""
        self.engine.stop()
        self._explainer.stop()
        self._log.stop()

    def beat(self) -> None:
        """Say that this worker runs, and how its model is."""
        self.metrics.alive()
        self.engine.tell()

    def check_live(self) -> None:
        """Check that no worker's model is given up: only a new start would bring it back.

        Raises:
            RequestError: 503, one is.
        """
        self.beat()
        if self.metrics.any_stuck():
            message = "a worker's model does not come back: start the service anew"
            raise RequestError(503, "stuck", message, retry_after="5")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        call = Call(scope, receive, self._memory)
        sender = Sender(send, call.id)
        route = self._route(call.path)
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

    async def _replied(self, call: Call, scope: Scope, sender: Sender) -> Reply | None:
        """Return the reply; None where another module's route has sent its own."""
        try:
            self._check_token(call)
            found = self._handlers.get(call.path)
            if found is None:
                await self._others(scope, call.body.receive, sender)
                return None
            handler = found[1].get(call.method)
            if handler is None:
                raise wrong_method(call.method, ", ".join(found[1]))
            return await handler(call)
        except (ImageError, RequestError) as error:
            return await self._refused(error, call, sender)
        except CancelledError:
            raise
        except Exception as error:
            return await self._refused(self._unknown(error, call), call, sender)

    async def _refused(self, error: ImageError | RequestError, call: Call, sender: Sender) -> Reply:
        if sender.status:
            raise error
        # Its frames hold what was read.
        error.__traceback__ = None
        call.noted["code"] = error.code
        if error.code == "overloaded":
            # Who asks again at once would take the time of those that wait their turn.
            await sleep(_HELD_BACK_S)
        return refusal(error) if name_of(call.path) != "v2" else protocol_refusal(error)

    def _route(self, path: str) -> str:
        found = self._handlers.get(path)
        return found[0] if found else name_of(path)

    def _unknown(self, error: Exception, call: Call) -> RequestError:
        from starlette.exceptions import HTTPException

        if isinstance(error, HTTPException):
            if error.status_code == 405:
                return wrong_method(call.method, (error.headers or {}).get("Allow", ""))
            if error.status_code == 404:
                return no_such_route()
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
        for start in range(0, len(contents), TURN):
            answers += await self.engine.answers(contents[start : start + TURN])
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
        self.check_live()
        return in_json({"live": True})

    async def _readyz(self, call: Call) -> Reply:
        del call
        reason = self.engine.reason
        if reason:
            raise RequestError(503, "not_ready", reason, retry_after="5")
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


def _is_page(call: Call) -> bool:
    """Whether the request is for the page's own files, which hold nothing."""
    return call.method in ("GET", "HEAD") and name_of(call.path) == "app"
