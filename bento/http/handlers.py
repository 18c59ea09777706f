"""What each route does with a request, but the page's and the Open Inference Protocol's."""

from math import isfinite
from typing import TYPE_CHECKING, Any

from msgspec.structs import asdict

from bento.http.exchange import Call
from bento.http.reply import Reply, in_json, problem_of
from bento.worker.counters import CONTENT_TYPE
from bento.worker.jobs import TURN
from toolkit.errors import ImageError
from toolkit.model.answer import Answer, Batch, Prediction, Result

if TYPE_CHECKING:
    from bento.http.app import Interface
    from bento.worker.assembly import Worker


async def predict(interface: "Interface", call: Call) -> Reply:
    """Answer for one X-ray."""
    worker = interface.worker
    worker.model.check()
    (answer,) = await worker.model.answers((await call.body.xray(),))
    if isinstance(answer, ImageError):
        raise answer
    _count(worker, answer)
    call.noted["class"] = answer.class_index
    return in_json(Prediction(**asdict(answer), **_origin(worker)))


async def predict_batch(interface: "Interface", call: Call) -> Reply:
    """Answer for each of several X-rays."""
    worker = interface.worker
    worker.model.check()
    items = await call.body.xrays()
    contents = [item for item in items if isinstance(item, bytes)]
    answers: list[Answer | ImageError] = []
    for start in range(0, len(contents), TURN):
        answers += await worker.model.answers(contents[start : start + TURN])
    answered = iter(answers)
    results = tuple(
        _result(worker, item if isinstance(item, ImageError) else next(answered)) for item in items
    )
    call.noted["xrays"] = len(results)
    return in_json(Batch(**_origin(worker), results=results))


async def explain(interface: "Interface", call: Call) -> Reply:
    """Answer with what the decision on one X-ray went by."""
    worker = interface.worker
    worker.explainer.check()
    worker.model.check()
    content = await call.body.xray()
    assert worker.model.predictor
    explanation, heat = await worker.explainer.explain(worker.model.predictor, content)
    call.noted["class"] = explanation.class_index
    if b"image/png" in call.headers.get(b"accept", b""):
        return Reply(200, heat, b"image/png")
    return in_json(explanation)


async def info(interface: "Interface", _: Call) -> Reply:
    """Say what is served."""
    model = interface.worker.model
    provider = model.predictor.provider if model.predictor else None
    return in_json(interface.worker.information.info(provider, model.reason))


async def livez(interface: "Interface", _: Call) -> Reply:
    """Say whether a new start is not needed."""
    interface.worker.check_live()
    return in_json({"live": True})


async def readyz(interface: "Interface", _: Call) -> Reply:
    """Say whether the model answers, and whether every worker's does."""
    return in_json(interface.worker.readiness())


async def metrics(interface: "Interface", _: Call) -> Reply:
    """Give the counters of all workers."""
    return Reply(
        200, interface.worker.metrics.text().encode(errors="replace"), CONTENT_TYPE.encode()
    )


async def docs(interface: "Interface", _: Call) -> Reply:
    """Give the OpenAPI document."""
    return interface.document


def _origin(worker: "Worker") -> dict[str, Any]:
    """Return what every answer says of the model that gave it."""
    information = worker.information
    assert worker.model.predictor
    return {
        "model": information.record.name,
        "model_sha256": information.sha256,
        "provider": worker.model.predictor.provider,
    }


def _result(worker: "Worker", answer: Answer | ImageError) -> Result:
    if isinstance(answer, ImageError):
        return Result(problem=problem_of(answer))
    _count(worker, answer)
    return Result(prediction=answer)


def _count(worker: "Worker", answer: Answer) -> None:
    if not isfinite(sum(answer.probabilities)):
        # JSON would have null in the place of a number.
        raise ValueError("the model gave a probability that is no number")
    metrics = worker.metrics
    metrics.add("predictions_total", 1.0, answer.class_index)
    if answer.abstain:
        metrics.add("abstentions_total")
    if answer.in_scope is False:
        metrics.add("out_of_scope_total")
