"""The BentoML service: `bentoml serve` at the root of the repository finds it by bentofile.yaml.

Environment: TOOLKIT_MODEL, the name to serve (model_saved); TOOLKIT_MODELS, its folder
(saved_models); TOOLKIT_WORKERS, the number of processes (one for each core).
"""

import os
import socket
import sys
from pathlib import Path

# Before bentoml and onnxruntime are imported: they read these then, and nobody is told.
os.environ.setdefault("BENTOML_DO_NOT_TRACK", "true")
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import bentoml

from bento.app import Interface
from bento.session import Predictor, open_model
from toolkit.errors import ToolkitError, UsageError
from toolkit.store import DEFAULT_NAME


def _workers() -> int:
    text = os.environ.get("TOOLKIT_WORKERS", str(os.cpu_count() or 1))
    if not text.isdecimal() or not 1 <= int(text) <= 1024:
        raise UsageError(f"TOOLKIT_WORKERS is {text!r}: give a number from 1 to 1024")
    return int(text)


def _check_port() -> None:
    """Refuse a taken port in one line, where `bentoml serve` would print a traceback.

    Only the process that will listen checks: workers share its socket.
    """
    if Path(sys.argv[0]).name != "bentoml" or "serve" not in sys.argv:
        return
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


def _opened() -> tuple[Predictor, int]:
    models = Path(os.environ.get("TOOLKIT_MODELS", "saved_models"))
    name = os.environ.get("TOOLKIT_MODEL", DEFAULT_NAME)
    # One thread for each worker: workers for each core would fight over the cores otherwise.
    return open_model(models, name, threads=1), _workers()


# An exception in the constructor would restart workers for ever; here it ends `bentoml serve`.
try:
    _check_port()
    _predictor, _count = _opened()
except ToolkitError as _error:
    print(f"error: {_error}", file=sys.stderr)
    raise SystemExit(_error.exit_code) from None


@bentoml.asgi_app(Interface(_predictor).application(), path="/")
@bentoml.service(
    name="toolkit",
    workers=_count,
    logging={"access": {"enabled": False}},
    # Its labels are request paths: any scanner would grow them without bound.
    metrics={"enabled": False},
    tracing={"excluded_urls": ".*"},
)
class XrayClassifier:
    """Classifies knee X-rays with a pipeline that carries its proof."""
