"""The HTTP interface, as a Starlette application that BentoML mounts at the root."""

from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from bento.openapi import document
from bento.session import Predictor
from bento.upload import uploaded_xray
from toolkit.errors import ImageError
from toolkit.images import decode

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response

_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]


class Interface:
    """The handlers over one open model."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self._document = document(predictor.meaning)

    def application(self) -> "Starlette":
        """Return the application; every route that it lacks is a 404 of its own."""
        from starlette.applications import Starlette
        from starlette.routing import Route

        return Starlette(
            routes=[
                Route("/predict", self._guarded_predict, methods=["POST"]),
                Route("/predict", _wrong_method, methods=[m for m in _METHODS if m != "POST"]),
                Route("/docs.json", self._docs),
                Route("/", self._docs),
                # BentoML's own pages beyond this point load scripts from outside.
                Route("/{rest:path}", _not_found, methods=_METHODS),
            ]
        )

    async def _docs(self, request: "Request") -> "Response":
        from starlette.responses import JSONResponse

        del request
        return JSONResponse(self._document)

    async def _guarded_predict(self, request: "Request") -> "Response":
        from starlette.responses import JSONResponse

        try:
            return JSONResponse(await self._predict(request))
        except ImageError as error:
            return problem(error.status, error.code, str(error))

    async def _predict(self, request: "Request") -> dict[str, Any]:
        from starlette.concurrency import run_in_threadpool

        content = await uploaded_xray(request)
        return await run_in_threadpool(self._answer, content)

    def _answer(self, content: bytes) -> dict[str, Any]:
        return self._predictor.answer(decode(content)) | {
            "model": self._predictor.name,
            "model_sha256": self._predictor.sha256,
        }


def problem(status: int, code: str, detail: str) -> "JSONResponse":
    """Return a problem document (RFC 9457) with a stable `code`."""
    from starlette.responses import JSONResponse

    content = {
        "title": HTTPStatus(status).phrase,
        "status": status,
        "code": code,
        "detail": detail,
    }
    return JSONResponse(content, status, media_type="application/problem+json")


async def _not_found(request: "Request") -> "Response":
    del request
    return problem(404, "no_such_route", "no such route: /docs.json lists them")


async def _wrong_method(request: "Request") -> "Response":
    response = problem(405, "wrong_method", f"{request.method} is not answered here: use POST")
    response.headers["allow"] = "POST"
    return response
