"""Scripts of other sites' pages (CORS): which may ask the service, by BentoML's `http.cors`."""

from typing import Any

from bentoml._internal.configuration.containers import BentoMLContainer  # noqa: TID253

from bento.http.exchange import Asgi
from bento.http.routes import ROUTES
from toolkit.errors import UsageError

# What the routes take and give besides what any script may send and see.
_DEFAULTS = {
    "allow_methods": sorted({method for route in ROUTES for method in route.methods}),
    "allow_headers": ["authorization", "inference-header-content-length", "x-request-id"],
    "expose_headers": ["inference-header-content-length", "retry-after", "x-request-id"],
}


def options() -> dict[str, Any] | None:
    """Return the arguments of Starlette's CORSMiddleware; None where http.cors is not enabled.

    What is not said is what the routes need.

    Raises:
        UsageError: it is enabled, and allows no site.
    """
    if not BentoMLContainer.http.cors.enabled.get():
        return None
    given = BentoMLContainer.access_control_options.get()
    if not (given.get("allow_origins") or given.get("allow_origin_regex")):
        raise UsageError(
            "http.cors is enabled in BentoML's configuration and allows no site: name some with "
            "access_control_allow_origins or access_control_allow_origin_regex, or disable it"
        )
    # Where BentoML takes several it takes one by itself too.
    several = ("allow_origins", *_DEFAULTS)
    return _DEFAULTS | {
        name: [value] if name in several and isinstance(value, str) else value
        for name, value in given.items()
    }


def with_cors(application: Asgi) -> Asgi:
    """Return an application that lets other sites' scripts ask it, where they may."""
    allowed = options()
    if allowed is None:
        return application
    from starlette.middleware.cors import CORSMiddleware

    return CORSMiddleware(application, **allowed)
