"""The parts of a worker, put together from the settings and the model's manifest."""

import asyncio
import platform
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from msgspec import UNSET

from bento.worker.counters import Metrics, rows
from bento.worker.explaining import Explainer
from bento.worker.log import Log
from bento.worker.model_thread import ModelThread
from bento.worker.settings import Settings
from toolkit.errors import ModelRefusedError, RequestError
from toolkit.extras import versions
from toolkit.model import manifest
from toolkit.model.answer import Equivalence, Info, Meaning, Providers, meaning_of
from toolkit.model.artifacts import check_equivalence, check_outputs, check_words, load_golden
from toolkit.model.manifest import Manifest
from toolkit.runtime.engine import Engine, open_engine
from toolkit.runtime.golden import difference
from toolkit.runtime.handover import Handover
from toolkit.runtime.providers import check_provider, open_session
from toolkit.runtime.session import ANSWERED, Predictor, open_explainer, open_pipeline

_PATIENCE_S = 20.0
"""How long a worker waits for the owner of the card before it says that it is not ready."""
_OWNER_AGAIN_S = 1.0
"""The same until it asks again where the owner, or the model's files, refused it at once."""


@dataclass(frozen=True)
class Information:
    """What is known of a model before it is opened.

    Attributes:
        settings: how it is served.
        record: its manifest.
        sha256: of the file that is served.
        meaning: of its probabilities.
        explains: whether it has an explainer.
    """

    settings: Settings
    record: Manifest
    sha256: str
    meaning: Meaning
    explains: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one X-ray: (size, size), or (size, size, 3) in colour."""
        return self.record.network.xray_shape

    @property
    def views(self) -> tuple[str, ...]:
        """The names of what the network is made to see of an X-ray besides."""
        assert self.record.export
        outputs = self.record.export.artifacts[self.settings.kind].outputs
        return tuple(each.name for each in outputs if each.name not in ANSWERED)

    def info(self, provider: str | None, reason: str) -> Info:
        """Return the answer to /info.

        Args:
            provider: that runs the model; None before it was opened.
            reason: why it does not answer; empty when it does.
        """
        verdict = self.record.equivalence
        assert verdict
        leg = verdict.legs[self.settings.kind]
        return Info(
            model=self.record.name,
            model_sha256=self.sha256,
            classes=self.meaning.classes,
            checkpoint_sha256=self.record.training.checkpoint_sha256,
            grades=self.meaning.grades,
            scale=self.meaning.scale if self.meaning.grades else "",
            views=self.views,
            equivalence=Equivalence(
                verdict.passed and leg.passed,
                leg.samples,
                {output.output: output.max_abs for output in leg.outputs},
            ),
            provider=Providers(self.settings.provider, provider),
            precision=self.settings.precision,
            ready=not reason,
            reason=reason or None,
            versions={"python": platform.python_version()}
            | versions("toolkit", "bentoml", "onnxruntime", "onnxruntime-gpu", "numpy", "pillow"),
            operating_point=self.meaning.operating_point or UNSET,
        )


class Worker:
    """What serves a model in one process; its threads run between `start` and `stop`.

    Args:
        information: what the model is.
        routes: what metrics and logs call the routes.
        number: of this process, 0 the first.
        log: a line for each request.
    """

    def __init__(
        self, information: Information, routes: tuple[str, ...], number: int, log: Log
    ) -> None:
        settings, record = information.settings, information.record
        self.information = information
        self.log = log
        self.metrics = Metrics(information.meaning.classes, routes, number, rows(settings.workers))
        self.model = (
            ModelThread(lambda: open_proven(settings, record), self.metrics, log)
            if settings.owner is None
            else ModelThread(self._open_handover, self.metrics, log, _OWNER_AGAIN_S)
        )
        self.explainer = Explainer(
            (lambda: open_explainer(settings.files, record, "cpu", threads=1))
            if information.explains
            else None
        )

    async def start(self) -> None:
        """Start the threads, and wait until the model is open or cannot be opened."""
        self.log.start()
        asyncio.get_running_loop().set_exception_handler(self.log.unhandled)
        await self.model.start()

    def stop(self) -> None:
        """End the threads."""
        self.model.stop()
        self.explainer.stop()
        self.log.stop()

    def _open_handover(self) -> Predictor:
        """Open the model that the owner of the card runs, and prove that it answers us.

        Raises:
            ToolkitError: it does not.
        """
        settings, record = self.information.settings, self.information.record
        opened: list[Handover] = []

        def connect(*_: object) -> Engine:
            assert settings.owner
            sha256 = self.information.sha256
            opened.append(Handover(settings.owner, sha256, _PATIENCE_S, self.model.listen))
            return opened[0]

        try:
            return open_proven(settings, record, connect)
        except Exception:
            for each in opened:
                each.leave()
            raise

    def beat(self) -> None:
        """Say that this worker runs, and how its model is."""
        self.metrics.alive()
        self.model.tell()

    def check_live(self) -> None:
        """Check that no worker's model is given up: only a new start would bring it back.

        Raises:
            RequestError: 503, one is.
        """
        self.beat()
        if self.metrics.any_stuck():
            message = "a worker's model does not come back: start the service anew"
            raise RequestError(503, "stuck", message, retry_after="5")

    def readiness(self) -> dict[str, Any]:
        """Return what /readyz says: whether this worker answers, and whether all do.

        Raises:
            RequestError: 503, this one does not.
        """
        if self.model.reason:
            raise RequestError(503, "not_ready", self.model.reason, retry_after="5")
        self.beat()
        workers, ready = self.information.settings.workers, self.metrics.ready_workers()
        if ready >= workers:
            return {"ready": True, "whole": True}
        reason = f"{ready} of {workers} workers answer: the log says why the rest does not"
        return {"ready": True, "whole": False, "reason": reason}


def check(settings: Settings) -> Information:
    """Check all that can be before anything listens, and return what the model is.

    Raises:
        ToolkitError: the model, its proof, its golden X-rays, its explainer or the provider.
    """
    files = settings.files
    record = manifest.load(files.manifest)
    digest = check_equivalence(files, record, settings.kind)
    load_golden(files, record)
    explains = _has_explainer(settings, record)
    if explains:
        check_equivalence(files, record, "explainer")
    check_provider(settings.provider)
    session = open_session(files.path(settings.kind), "cpu", threads=1)
    check_words(session.get_modelmeta().custom_metadata_map, files, record, settings.kind)
    outputs = [each.name for each in session.get_outputs()]
    check_outputs(outputs, files, record, settings.kind)
    return Information(settings, record, digest, meaning_of(record), explains)


def open_proven(
    settings: Settings,
    record: Manifest,
    opener: Callable[[Path, str, int], Engine] = open_engine,
) -> Predictor:
    """Open the model, and prove it on its provider by its golden X-rays.

    Args:
        settings: how to open it.
        record: the manifest that the service began with. The one on disk must be the same, but
            for the verdict, which may have been found anew.
        opener: opens what runs its file.

    Raises:
        ToolkitError: it cannot be opened, was replaced, or does not compute what PyTorch does.
    """
    files, kind = settings.files, settings.kind
    found = manifest.load(files.manifest)
    if replace(found, equivalence=None) != replace(record, equivalence=None):
        raise ModelRefusedError(
            f"{files.manifest} was replaced since the service began: start the service anew, or "
            "restore the files"
        )
    check_equivalence(files, found, kind)
    predictor = open_pipeline(files, record, settings.provider, 1, kind, opener)
    golden, engine = load_golden(files, record), predictor.engine
    differs = difference(golden, engine.outputs, engine.run, kind != "pipeline", engine.sizes)
    if differs:
        raise ModelRefusedError(
            f"{files.name} does not compute on {predictor.provider} what PyTorch does: {differs}"
        )
    return predictor


def _has_explainer(settings: Settings, record: Manifest) -> bool:
    named = record.export is not None and "explainer" in record.export.artifacts
    return named and settings.files.path("explainer").is_file()
