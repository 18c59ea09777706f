"""The process that owns the card and runs the model on it, for the workers.

The arbiter begins it where the model runs on CUDA, with `python -m bento.owner`, and begins it anew
when it has ended. TOOLKIT_OWNER names a module to run in its place: with `bento.owner` itself, the
model runs in one process on a CPU too.
"""

import os
import signal
from collections.abc import Callable
from pathlib import Path

# Before onnxruntime is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

from bento.http.routes import NAMES
from bento.worker import lifeline, rollout
from bento.worker.assembly import Information, open_proven
from bento.worker.counters import Metrics, rows
from bento.worker.jobs import counts_of_batch
from bento.worker.log import Log
from bento.worker.settings import Settings, settings
from toolkit.errors import ProviderError, ToolkitError
from toolkit.runtime.engine import Engine, open_fixed_sizes
from toolkit.runtime.owner import Owner, refuse
from toolkit.runtime.probe import runs_on_cuda
from toolkit.runtime.providers import has_cuda
from toolkit.runtime.session import Predictor

MODULE = "TOOLKIT_OWNER"
_AGAIN_S = 10.0
_DRAIN_S = 12.0


def module_for(asked: Settings) -> str | None:
    """Return the module that is to own the card; None where each worker runs the model itself.

    Whether CUDA can be had is tried in a process of its own: a context would stay on the card.

    Raises:
        ProviderError: CUDA was asked for, and cannot be had.
    """
    if named := os.environ.get(MODULE):
        return named
    if asked.provider == "cpu" or not (asked.provider == "cuda" or has_cuda()):
        return None
    if runs_on_cuda():
        return "bento.owner"
    if asked.provider == "cuda":
        raise ProviderError(
            "CUDA was asked for and cannot be had: `toolkit doctor` says why; or ask for cpu"
        )
    return None


def main(opener: Callable[[Path, str, int], Engine] = open_fixed_sizes) -> None:
    """Run what the workers hand over, until they are gone.

    Args:
        opener: opens what runs the model's file, in fixed sizes.
    """
    lifeline.follow()
    # The arbiter decides what comes of Ctrl-C.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asked = settings()
    assert asked.owner
    information = rollout.information(asked)
    log = Log()
    log.start()
    predictor = _opened(information, opener, log)
    count = rows(asked.workers)
    metrics = Metrics(information.meaning.classes, NAMES, count - 1, count)

    def ran(count: int, seconds: float) -> None:
        for name, value in counts_of_batch(predictor.engine, count, seconds):
            metrics.observe(name, value)

    owner = Owner(asked.owner, predictor.engine, information.sha256, ran, metrics.alive)
    signal.signal(signal.SIGTERM, lambda *_: owner.drain(_DRAIN_S))
    log.line("owner ready", model=predictor.name, provider=predictor.provider)
    try:
        owner.serve()
    except ToolkitError as error:
        log.line("owner ended", "error", reason=str(error))
        raise SystemExit(error.exit_code) from None
    finally:
        log.stop()


def _opened(
    information: Information, opener: Callable[[Path, str, int], Engine], log: Log
) -> Predictor:
    """Open and prove the model; where that fails, say so to whoever asks, and try again."""
    asked = information.settings
    assert asked.owner
    while True:
        try:
            return open_proven(asked, information.record, opener)
        except ToolkitError as error:
            log.line("owner not ready", "error", reason=str(error))
            refuse(asked.owner, str(error), _AGAIN_S)


if __name__ == "__main__":
    main()
