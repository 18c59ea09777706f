"""The Open Inference Protocol, version 2, over HTTP: what clients of KServe and Triton speak.

A model's version is the first 12 digits of the SHA-256 of the pipeline that was proven.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from bento.http.exchange import Call
from bento.http.reply import Reply, in_json
from bento.v2.tensors import HEADER_LENGTH, INPUT, MAX_BODY, datatype_of, parse, render
from bento.worker.jobs import TURN
from bento.worker.waiting import to_its_end
from toolkit import __version__
from toolkit.errors import RequestError
from toolkit.runtime.session import Predictor

if TYPE_CHECKING:
    from bento.http.app import Interface
    from bento.worker.assembly import Worker

T = TypeVar("T")


class Ready(Struct, frozen=True, omit_defaults=True):
    """Whether the service, or the model of a name, takes requests."""

    ready: bool
    name: str | None = None


async def server(*_: Any) -> Reply:
    """Say what the server is."""
    extensions = ["binary_tensor_data"]
    return in_json({"name": "toolkit", "version": __version__, "extensions": extensions})


async def live(interface: "Interface", _: Call) -> Reply:
    """Say whether a new start is not needed."""
    interface.worker.check_live()
    return in_json({"live": True})


async def ready(interface: "Interface", _: Call) -> Reply:
    """Say whether the service takes requests."""
    return _readiness(interface.worker, None)


async def model_ready(interface: "Interface", call: Call) -> Reply:
    """Say whether the model takes requests."""
    _check_name(interface.worker, call)
    return _readiness(interface.worker, interface.worker.information.record.name)


async def model(interface: "Interface", call: Call) -> Reply:
    """Say what the model takes and gives."""
    worker = interface.worker
    _check_name(worker, call)
    _check_ready(worker)
    shape = _shape(worker)
    scores = [-1, len(worker.information.meaning.classes)]
    shapes = {"logits": scores, "probabilities": scores, "novelty": [-1]}
    view = [-1, *shape[:2]]
    return in_json(
        {
            "name": worker.information.record.name,
            "versions": [_version(worker)],
            "platform": "onnxruntime_onnx",
            "inputs": [{"name": INPUT, "datatype": "UINT8", "shape": [-1, *shape]}],
            "outputs": [
                {"name": name, "datatype": datatype_of(name), "shape": shapes.get(name, view)}
                for name in _outputs(worker)
            ],
        }
    )


async def infer(interface: "Interface", call: Call) -> Reply:
    """Give the outputs of X-rays."""
    worker = interface.worker
    _check_name(worker, call)
    _check_ready(worker)
    body = await call.body.read(MAX_BODY)
    length = call.headers.get(HEADER_LENGTH.encode())
    text = None if length is None else length.decode("latin-1")
    async with interface.reading:
        asked = await _in_thread(parse, body, text, _outputs(worker), _shape(worker))
    values = await _run(worker, asked.xrays, list(asked.outputs))
    name, version = worker.information.record.name, _version(worker)
    content, head_length = await _in_thread(render, asked, name, version, values)
    if head_length is None:
        return Reply(200, content)
    headers = [(HEADER_LENGTH.encode(), str(head_length).encode())]
    return Reply(200, content, b"application/octet-stream", headers)


async def _in_thread(function: Callable[..., T], *arguments: Any) -> T:
    return await to_its_end(asyncio.ensure_future(asyncio.to_thread(function, *arguments)))


async def _run(
    worker: "Worker", xrays: NDArray[np.uint8], names: list[str]
) -> dict[str, NDArray[Any]]:
    """Return outputs of X-rays, a few in each turn, so that other requests come in between."""
    turns: list[dict[str, NDArray[Any]]] = []
    for start in range(0, len(xrays), TURN):
        some = xrays[start : start + TURN]
        turns.append(await worker.model.run(partial(_run_turn, names, some)))
    return {name: np.concatenate([turn[name] for turn in turns]) for name in names}


def _run_turn(
    names: list[str], xrays: NDArray[np.uint8], predictor: Predictor
) -> dict[str, NDArray[Any]]:
    return predictor.run(names, xrays)


def _readiness(worker: "Worker", name: str | None) -> Reply:
    if not worker.model.reason:
        return in_json(Ready(True, name))
    return Reply(503, in_json(Ready(False, name)).body, headers=[(b"retry-after", b"5")])


def _check_ready(worker: "Worker") -> None:
    if worker.model.reason:
        message = "the model does not answer: /readyz says why"
        raise RequestError(503, "not_ready", message, retry_after="5")


def _version(worker: "Worker") -> str:
    return worker.information.sha256[:12]


def _outputs(worker: "Worker") -> tuple[str, ...]:
    """Return the outputs of the model's graph."""
    assert worker.model.predictor
    return tuple(worker.model.predictor.outputs)


def _shape(worker: "Worker") -> tuple[int, ...]:
    """Return the shape of one X-ray."""
    assert worker.model.predictor
    return worker.model.predictor.shape


def _check_name(worker: "Worker", call: Call) -> None:
    served = {"name": worker.information.record.name, "version": _version(worker)}
    for what, asked in call.parameters.items():
        if asked != served[what]:
            known = f"{served[what]} is served"
            kind = "model is called" if what == "name" else "version"
            raise RequestError(404, "not_served", f"no {kind} {ascii(asked)[:100]}: {known}")
