"""The service's own OpenAPI document: it lists every route, with examples."""

from http import HTTPStatus
from typing import Any

from bento.http import schemas
from bento.http.upload import FIELD, MAX_BATCH_BYTES, MAX_FILES, RAW_TYPES
from bento.v2 import paths as v2
from toolkit import __version__
from toolkit.model.answer import Meaning
from toolkit.xray.reading import MAX_BYTES, MAX_PIXELS

_SHA = "5f2b3c0d1e4a59687786950a4b3c2d1e0f5f2b3c0d1e4a59687786950a4b3c2d"
_FILE = {
    "type": "string",
    "format": "binary",
    "description": f"An X-ray, up to {MAX_BYTES} bytes and {MAX_PIXELS} pixels.",
}
_METHODS = {"get", "post"}
_HEADERS: dict[str, Any] = {
    "x-request-id": {
        "description": "The request's own, if it is sane, else a new one.",
        "required": True,
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,128}$"},
    },
    "retry-after": {
        "description": "Seconds.",
        "required": True,
        "schema": {"type": "string", "pattern": "^[0-9]+$"},
    },
    "www-authenticate": {"required": True, "schema": {"type": "string"}},
}
_HEADERS_OF = {"401": {"www-authenticate"}, "429": {"retry-after"}, "503": {"retry-after"}}


def document(meaning: Meaning) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of a service whose answers mean this."""
    said = _example(meaning)
    origin = {"model": "model_saved", "model_sha256": _SHA, "provider": "CPUExecutionProvider"}
    problem = {"title": HTTPStatus(422).phrase, "status": 422, "code": "too_small", "detail": "…"}
    batch = origin | {"results": [{"prediction": said}, {"problem": problem}]}
    explained = {
        "class": said["class"],
        "label": said["label"],
        "edge_map": "iVBORw0KGgo…",
        "heat": "iVBORw0KGgo…",
    }
    paths = {
        "/predict": {"post": _predict(meaning, said | origin)},
        "/predict_batch": {"post": _predict_batch(batch)},
        "/explain": {"post": _explain(explained)},
        "/info": {"get": _get("What is served, its proof, and whether it is ready.", "Info")},
        "/livez": {"get": _open("200 while no model is stuck.", "application/json", "503")},
        "/readyz": {"get": _open("200 while the model answers.", "application/json", "503")},
        "/metrics": {"get": _read("Counters in Prometheus' text format.", "text/plain")},
        "/docs.json": {"get": _read("This document.", "application/json")},
        "/": {"get": _to_the_page()},
        "/app": {"get": _open("A page to drop X-rays on.", "text/html", "304")},
        **v2.paths(),
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "X-ray classifier",
            "version": __version__,
            "description": "Grades one knee X-ray. Not a medical device.",
        },
        "paths": _with_headers(paths),
        "components": {
            "schemas": {
                "Prediction": schemas.prediction(meaning, schemas.ORIGIN),
                "Said": schemas.prediction(meaning),
                "Batch": schemas.batch(),
                "Explanation": schemas.explanation(meaning),
                "Info": schemas.info(),
                "Problem": schemas.problem(problem),
                **v2.schemas(),
            },
            "headers": _HEADERS,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        # An empty one beside it: the token is only asked for where the service has one.
        "security": [{}, {"token": []}],
    }


def _predict(meaning: Meaning, example: dict[str, Any]) -> dict[str, Any]:
    return {
        "summary": f"Class and probabilities of one X-ray: {', '.join(meaning.classes)}.",
        "operationId": "predict",
        "requestBody": _one_file(),
        "responses": {"200": _json("What the model says.", "Prediction", example), **_refusals()},
    }


def _predict_batch(example: dict[str, Any]) -> dict[str, Any]:
    files = {"type": "array", "items": _FILE, "minItems": 1, "maxItems": MAX_FILES}
    answer = _json("One result a file, in order.", "Batch", example)
    return {
        "summary": "Several X-rays, each answered or refused by itself.",
        "description": f"At most {MAX_FILES} files and {MAX_BATCH_BYTES} bytes.",
        "operationId": "predict_batch",
        "requestBody": {"required": True, "content": {"multipart/form-data": _form(files)}},
        "responses": {"200": answer, **_refusals()},
    }


def _explain(example: dict[str, Any]) -> dict[str, Any]:
    answer = _json("What the decision went by.", "Explanation", example)
    answer["content"]["image/png"] = {"schema": {"type": "string", "format": "binary"}}
    return {
        "summary": "Which regions of the X-ray and of its edge map the decision went by.",
        "description": "With `Accept: image/png` the picture itself.",
        "operationId": "explain",
        "requestBody": _one_file(),
        "responses": {"200": answer, **_refusals("404")},
    }


def _one_file() -> dict[str, Any]:
    raw = {kind.decode(): {"schema": _FILE} for kind in RAW_TYPES}
    return {"required": True, "content": {"multipart/form-data": _form(_FILE), **raw}}


def _form(field: dict[str, Any]) -> dict[str, Any]:
    return {"schema": {"type": "object", "required": [FIELD], "properties": {FIELD: field}}}


def _json(description: str, schema: str, example: dict[str, Any]) -> dict[str, Any]:
    content = {"schema": {"$ref": f"#/components/schemas/{schema}"}, "example": example}
    return {"description": description, "content": {"application/json": content}}


def _refusals(*more: str) -> dict[str, Any]:
    statuses = sorted({"400", "401", "408", "413", "415", "422", "503", *more})
    return {status: _refused() for status in statuses}


def _refused() -> dict[str, Any]:
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {"description": "Refused; `code` and `detail` say why.", "content": content}


def _get(description: str, schema: str) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    return {"responses": {"200": {"description": description, "content": content}} | _guard()}


def _read(description: str, kind: str) -> dict[str, Any]:
    return {"responses": {"200": {"description": description, "content": {kind: {}}}} | _guard()}


def _guard() -> dict[str, Any]:
    return {"401": _refused()}


def _open(description: str, kind: str, *others: str) -> dict[str, Any]:
    """Return a route that asks for no token."""
    answers = {"200": {"description": description, "content": {kind: {}}}}
    more = {s: {"description": "It is as it was."} if s == "304" else _refused() for s in others}
    return {"responses": answers | more, "security": []}


def _to_the_page() -> dict[str, Any]:
    header = {"location": {"required": True, "schema": {"type": "string"}}}
    answer = {"description": "To the page at /app.", "headers": header}
    return {"responses": {"307": answer}, "security": []}


def _with_headers(paths: dict[str, Any]) -> dict[str, Any]:
    """Return path items whose answers name the headers that they have."""
    for operation in (each[method] for each in paths.values() for method in each.keys() & _METHODS):
        for status, answer in operation["responses"].items():
            named = {"x-request-id"} | _HEADERS_OF.get(status, set())
            references = {each: {"$ref": f"#/components/headers/{each}"} for each in sorted(named)}
            answer["headers"] = answer.get("headers", {}) | references
    return paths


def _example(meaning: Meaning) -> dict[str, Any]:
    """Return what would be said of an X-ray of the first class."""
    import numpy as np

    share = 0.15 / max(1, len(meaning.classes) - 1)
    row = np.array([0.85] + [share] * (len(meaning.classes) - 1))
    said = meaning.answer(row.astype(np.float32), 0.0)
    return said | {"probabilities": [round(each, 4) for each in row.tolist()]}
