"""The BentoML service: `bentoml serve` at the root of the repository finds it by bentofile.yaml.

Environment: TOOLKIT_MODEL, the name to serve (the only one in the folder, else model_saved);
TOOLKIT_MODELS, its folder (saved_models); TOOLKIT_WORKERS, the number of processes (one for each
core); TOOLKIT_PROVIDER, auto, cpu or cuda (auto); TOOLKIT_PRECISION, fp32, fp16 or int8 (fp32);
TOOLKIT_TOKEN, what every request but the probes must bear (none).
"""

import gc
import os
import sys
from types import FrameType
from typing import Any, NoReturn

# Before bentoml and onnxruntime are imported: they read these then, and nobody is told.
os.environ.setdefault("BENTOML_DO_NOT_TRACK", "true")
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import bentoml  # noqa: TID253
from bentoml._internal.configuration.containers import BentoMLContainer  # noqa: TID253
from bentoml.exceptions import BentoMLConfigException  # noqa: TID253

from bento import arbiter
from bento.http import connections
from bento.http.app import Interface
from bento.http.cors import with_cors
from bento.http.exchange import Asgi
from bento.http.routes import NAMES
from bento.worker import lifeline, rollout
from bento.worker.assembly import Information, Worker
from bento.worker.log import Log
from bento.worker.settings import settings
from toolkit import bentoml_home
from toolkit.errors import ToolkitError, UsageError


def _callers_folder() -> str:
    """Return the folder that BentoML left to import this service from its own; else where we are.

    Of that folder BentoML tells nobody.
    """
    frame: FrameType | None = sys._getframe()
    while frame := frame.f_back if frame else None:
        if frame.f_globals.get("__name__") == "bentoml._internal.service.loader":
            folder = frame.f_locals.get("prev_cwd")
            if folder:
                return str(folder)
    return os.getcwd()


def _end(error: ToolkitError) -> NoReturn:
    """End this process in one line."""
    print(f"error: {error}", file=sys.stderr)
    raise SystemExit(error.exit_code) from None


class Service(bentoml.Service[Any]):  # type: ignore[misc]
    """A service whose requests go past BentoML's middlewares, straight to the interface."""

    def inject_config(self) -> None:
        """Take BentoML's configuration; end the process in one line where it cannot be taken."""
        try:
            super().inject_config()
        except BentoMLConfigException as error:
            _end(UsageError(f"BentoML's configuration: {' '.join(str(error).split())}"))

    def to_asgi(self, is_main: bool = True) -> Asgi:
        """Return the application of one worker."""
        lifeline.follow()
        number = (bentoml.server_context.worker_index or 1) - 1
        worker = Worker(_information, NAMES, number, Log())
        return _application(super().to_asgi(is_main), Interface(worker))


def _application(whole: Asgi, interface: Interface) -> Asgi:
    """Return an application: BentoML's `whole` for the worker's life, `interface` for the rest."""
    requests = with_cors(interface)
    if BentoMLContainer.tracing.exporter_type.get():
        from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware

        provider = BentoMLContainer.tracer_provider.get()
        requests = OpenTelemetryMiddleware(requests, tracer_provider=provider)

    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            await requests(scope, receive, send)
            return
        server = connections.running_server()
        worker = interface.worker
        watch = None
        if server:
            watch = connections.protect(server, requests, worker.metrics, worker.beat)
        else:
            worker.metrics.accepting()
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


bentoml_home.anchor_paths(_callers_folder())
# An exception in the constructor would restart workers for ever; here it ends `bentoml serve`.
try:
    _settings = settings()
    _information: Information = rollout.information(_settings)
except ToolkitError as _error:
    _end(_error)

arbiter.install(lambda: rollout.share(_information))


@bentoml.service(
    name="toolkit",
    service_class=Service,
    workers=_settings.workers,
    logging={"access": {"enabled": False}},
    metrics={"enabled": False},
)
class XrayClassifier:
    """Classifies knee X-rays with a pipeline that carries its proof."""
