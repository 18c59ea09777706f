"""Puts the parts of a worker together, from the settings and the model's manifest."""

from bento.http.app import ROUTES, Interface
from bento.worker.counters import Metrics
from bento.worker.engine import Engine
from bento.worker.explaining import Explainer
from bento.worker.information import Information
from bento.worker.log import Log
from bento.worker.settings import Settings
from toolkit.errors import ModelRefusedError
from toolkit.model import manifest
from toolkit.model.answer import meaning_of
from toolkit.model.artifacts import check_equivalence, load_golden
from toolkit.model.manifest import Manifest
from toolkit.runtime.golden import difference
from toolkit.runtime.session import (
    Predictor,
    open_explainer,
    open_model,
    open_session,
)


def check(settings: Settings) -> Information:
    """Check all that can be before anything listens, and return what the model is.

    Raises:
        ToolkitError: the model, its proof, its golden X-rays, its explainer or the provider.
    """
    files = settings.files
    record = manifest.load(files.manifest)
    digest = check_equivalence(files, record, settings.kind)
    load_golden(files, record)
    if _has_explainer(settings, record):
        check_equivalence(files, record, "explainer")
    open_session(files.path(settings.kind), settings.provider, threads=1)
    return Information(settings, record, digest, meaning_of(record))


def interface(information: Information, worker: int, log: Log) -> Interface:
    """Return the interface of one worker, 0 the first; its threads are not started yet."""
    settings, record = information.settings, information.record
    counters = Metrics(information.meaning.classes, ROUTES, worker, 2 * settings.workers)
    explainer = Explainer(
        (lambda: open_explainer(settings.files, record, "cpu", threads=1))
        if _has_explainer(settings, record)
        else None
    )
    engine = Engine(lambda: open_proven(settings, record), counters, log)
    return Interface(information, engine, explainer, counters, log, settings.token)


def open_proven(settings: Settings, record: Manifest) -> Predictor:
    """Open the model, and prove it on its provider by its golden X-rays.

    Raises:
        ToolkitError: it cannot be opened, or does not compute what PyTorch does.
    """
    files, kind = settings.files, settings.kind
    predictor = open_model(files.folder, files.name, settings.provider, 1, kind)
    golden = load_golden(files, record)
    found = difference(golden, predictor.outputs, predictor.run, kind != "pipeline")
    if found:
        raise ModelRefusedError(
            f"{files.name} does not compute on {predictor.provider} what PyTorch does: {found}"
        )
    return predictor


def _has_explainer(settings: Settings, record: Manifest) -> bool:
    named = record.export is not None and "explainer" in record.export.artifacts
    return named and settings.files.path("explainer").is_file()
