"""The routes of other modules, which Starlette tells apart: the page's and those under /v2."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bento import page
from bento.http.exchange import Asgi, Scope, Send
from bento.http.upload import Receive
from bento.v2 import protocol
from bento.worker.engine import TURN, Engine
from bento.worker.information import Information
from toolkit.runtime.session import Predictor

if TYPE_CHECKING:
    from starlette.routing import BaseRoute

OTHERS = ("app", "v2", "other")
"""What metrics and logs call these routes."""


def other_routes(information: Information, engine: Engine, check_live: Callable[[], None]) -> Asgi:
    """Return the application of other modules' routes; this is the one place to add them.

    They get what the interface's own handlers get: the token is checked, bodies are limited, what
    they raise becomes a problem document. X-rays go through the engine.
    """

    async def run(xrays: NDArray[np.uint8], names: tuple[str, ...]) -> dict[str, NDArray[Any]]:
        found: list[dict[str, NDArray[Any]]] = []
        for start in range(0, len(xrays), TURN):
            turn = xrays[start : start + TURN]
            found.append(await engine.run(partial(_outputs, list(names), turn)))
        return {name: np.concatenate([each[name] for each in found]) for name in names}

    served = protocol.routes(information, run, lambda: not engine.reason, check_live)
    return _router([*page.routes(), *served])


def name_of(path: str) -> str:
    """Return which of `OTHERS` a path belongs to."""
    if path == "/" or path == "/app" or path.startswith("/app/"):
        return "app"
    return "v2" if path.startswith("/v2") else "other"


def _outputs(
    names: list[str], xrays: NDArray[np.uint8], predictor: Predictor
) -> dict[str, NDArray[Any]]:
    return predictor.run(names, xrays)


def _router(routes: "list[BaseRoute]") -> Asgi:
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
