"""The BentoML service: `bentoml serve` at the root of the repository finds it by bentofile.yaml.

Environment: TOOLKIT_MODEL, the name to serve (model_saved); TOOLKIT_MODELS, its folder
(saved_models); TOOLKIT_WORKERS, the number of processes (one for each core); TOOLKIT_PROVIDER,
auto, cpu or cuda (auto); TOOLKIT_PRECISION, fp32, fp16 or int8 (fp32); TOOLKIT_TOKEN, what every
request but the probes must bear (none).
"""

import gc
import os
import socket
import sys
from functools import partial
from pathlib import Path
from typing import Any

# Before bentoml and onnxruntime are imported: they read these then, and nobody is told.
os.environ.setdefault("BENTOML_DO_NOT_TRACK", "true")
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import bentoml  # noqa: TID253
from bentoml._internal.configuration.containers import BentoMLContainer  # noqa: TID253
from bentoml._internal.utils import circus  # noqa: TID253

from bento.http import connections
from bento.http.app import Interface
from bento.http.exchange import Asgi
from bento.http.routes import NAMES
from bento.worker import counters
from bento.worker.assembly import Information, Worker, check
from bento.worker.log import Log
from bento.worker.settings import settings
from toolkit.errors import ToolkitError, UsageError


def _is_worker() -> bool:
    return bentoml.server_context.worker_index is not None


def _is_serving() -> bool:
    return Path(sys.argv[0]).name == "bentoml" and "serve" in sys.argv


def _check_port() -> None:
    """Refuse a taken port in one line, where `bentoml serve` would print a traceback."""
    import click

    context = click.get_current_context(silent=True)
    parameters = context.params if context else {}
    host, port = parameters.get("host") or "0.0.0.0", parameters.get("port") or 3000  # noqa: S104
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UsageError(
                f"cannot listen on {host} port {port}: {reason}; choose another with -p"
            ) from error


def _prepare() -> None:
    """Prepare the process that starts the workers and minds them."""
    _check_port()
    counters.share()
    # BentoML looks for dead workers every 10 seconds, and in a container it leaves them dead.
    circus.create_standalone_arbiter = partial(circus.create_standalone_arbiter, check_delay=1.0)
    os.environ.pop("BENTOML_CONTAINERIZED", None)
    # Else the GNU C library keeps what bodies of many sizes leave behind, in a heap a thread.
    os.environ.setdefault("MALLOC_ARENA_MAX", "2")
    os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", "262144")


class Service(bentoml.Service[Any]):  # type: ignore[misc]
    """A service whose requests go past BentoML's middlewares, straight to the interface."""

    def to_asgi(self, is_main: bool = True) -> Asgi:
        """Return the application of one worker."""
        number = (bentoml.server_context.worker_index or 1) - 1
        worker = Worker(_information, NAMES, number, Log())
        return _application(super().to_asgi(is_main), Interface(worker))


def _application(whole: Asgi, interface: Interface) -> Asgi:
    """Return an application: BentoML's `whole` for the worker's life, `interface` for the rest."""
    requests: Asgi = interface
    if BentoMLContainer.tracing.exporter_type.get():
        from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware

        provider = BentoMLContainer.tracer_provider.get()
        requests = OpenTelemetryMiddleware(interface, tracer_provider=provider)

    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            await requests(scope, receive, send)
            return
        server = connections.running_server()
        worker = interface.worker
        watch = None
        if server:
            watch = connections.protect(server, requests, worker.metrics, worker.beat)
        # A worker that is not ready takes no connection that another could answer.
        await worker.start()
        # What was loaded stays: looking through it again and again for garbage would cost.
        gc.collect()
        gc.freeze()
        await whole(scope, receive, send)
        worker.stop()
        if watch:
            watch.cancel()

    return application


# An exception in the constructor would restart workers for ever; here it ends `bentoml serve`.
try:
    if _is_serving():
        _prepare()
    _settings = settings()
    _information: Information = check(_settings)
except ToolkitError as _error:
    print(f"error: {_error}", file=sys.stderr)
    raise SystemExit(_error.exit_code) from None


@bentoml.service(
    name="toolkit",
    service_class=Service,
    workers=_settings.workers,
    logging={"access": {"enabled": False}},
    metrics={"enabled": False},
)
class XrayClassifier:
    """Classifies knee X-rays with a pipeline that carries its proof."""
