"""The HTTP interface: one ASGI callable, so that little lies between a socket and the model."""

import errno
import secrets
from asyncio import CancelledError, Lock, sleep
from time import perf_counter

from bento.http.exchange import Call, Scope, Send
from bento.http.openapi import document
from bento.http.reply import Reply, in_json, refusal
from bento.http.routes import Route, find, name_of
from bento.http.upload import Memory, Receive
from bento.worker.assembly import Worker
from toolkit.errors import ImageError, RequestError

_HELD_BACK_S = 0.07
_LACKING = (errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOSPC)


class Interface:
    """The routes over one worker's model; an ASGI application.

    Args:
        worker: what serves the model. Where its settings have a token, requests must bear it.

    Attributes:
        document: the answer to /docs.json.
        reading: held by the one request whose tensors are read from JSON: that keeps the
            interpreter to itself, so several at once would only take memory.
    """

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        known = worker.information
        self.document = in_json(document(known.meaning, known.shape, known.views))
        self.reading = Lock()
        self._token = worker.information.settings.token
        self._memory = Memory()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        call = Call(scope, receive, self._memory)
        (route, call.parameters), metrics, status = find(call.path), self.worker.metrics, 0
        name = route.name if route else name_of(call.path)
        metrics.add("requests_in_flight")
        try:
            reply = await self._reply(call, route, name)
            status = reply.status
            await call.answer(send, reply)
        finally:
            call.body.release()
            metrics.add("requests_in_flight", -1)
            seconds = perf_counter() - call.started
            metrics.answered(name, status)
            metrics.observe("request_seconds", seconds)
            self.worker.log.line(
                "request",
                request_id=call.id.decode(),
                route=name,
                status=status,
                ms=round(seconds * 1000, 2),
                **call.noted,
            )

    async def _reply(self, call: Call, route: Route | None, name: str) -> Reply:
        try:
            if self._token is not None and not (route and route.is_open):
                self._check_token(call)
            if route is None:
                raise RequestError(404, "no_such_route", "no such route: /docs.json lists them")
            if call.method not in route.methods:
                allowed = ", ".join(route.methods)
                message = f"{call.method} is not answered here: use {allowed}"
                raise RequestError(405, "wrong_method", message, allow=allowed)
            reply = await route.handler(self, call)
            call.body.give_way(len(reply.body))
            return reply
        except CancelledError:
            call.noted["code"] = "cancelled"
            raise
        except Exception as error:
            if not isinstance(error, ImageError | RequestError):
                error = self._unexpected(error, call)
            # Its frames hold what was read.
            error.__traceback__ = None
            call.noted["code"] = error.code
            if error.code == "overloaded":
                # A client that asks again at once would take time from those that wait in line.
                await sleep(_HELD_BACK_S)
            return refusal(error, by_protocol=name == "v2")

    def _unexpected(self, error: Exception, call: Call) -> RequestError:
        if isinstance(error, MemoryError) or getattr(error, "errno", None) in _LACKING:
            call.noted["lacks"] = type(error).__name__
            message = "the machine lacks memory or another resource for it: try again later"
            return RequestError(503, "overloaded", message, retry_after="5")
        self.worker.log.error(error, request_id=call.id.decode())
        return RequestError(500, "internal", "this should not have happened; the log says more")

    def _check_token(self, call: Call) -> None:
        assert self._token is not None
        scheme, _, given = call.headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() != b"bearer" or not given:
            message = "give the service's token as `Authorization: Bearer TOKEN`"
        elif not secrets.compare_digest(given.strip(b" "), self._token):
            message = "the token that came is not the service's"
        else:
            return
        raise RequestError(401, "unauthorized", message, www_authenticate="Bearer")
