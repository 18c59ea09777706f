"""The page at /app: sends X-rays to the service that it came from, and shows what it says."""

from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

_FOLDER = Path(__file__).parent
_KINDS = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
_HEADERS = {
    "cache-control": "no-cache",
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "permissions-policy": "camera=(), display-capture=(), geolocation=(), microphone=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


def routes() -> "list[Route]":
    """Return a route for each file of the page, read now, and one from `/` to it.

    They answer GET and HEAD.
    """
    from starlette.routing import Route

    files = [_file(path) for path in sorted(_FOLDER.iterdir()) if path.suffix in _KINDS]
    return [Route("/", _to_the_page, methods=["GET"]), *files]


async def _to_the_page(request: "Request") -> "Response":
    from starlette.responses import RedirectResponse

    del request
    return RedirectResponse("app", 307)


def _file(path: Path) -> "Route":
    from starlette.responses import Response
    from starlette.routing import Route

    content = path.read_bytes()
    headers = _HEADERS | {"etag": f'"{sha256(content).hexdigest()[:32]}"'}

    async def file(request: "Request") -> "Response":
        known = [each.strip() for each in request.headers.get("if-none-match", "").split(",")]
        if headers["etag"] in known:
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers, media_type=_KINDS[path.suffix])

    where = "/app" if path.name == "index.html" else f"/app/{path.name}"
    return Route(where, file, methods=["GET"])
