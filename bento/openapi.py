"""The service's own OpenAPI document: it lists every route, with examples."""

from typing import Any

from bento import protocol
from bento.answer import Meaning
from bento.upload import FIELD, MAX_BATCH_BYTES, MAX_FILES, RAW_TYPES
from toolkit import __version__
from toolkit.images import MAX_BYTES, MAX_PIXELS

_SHA = "5f2b3c0d1e4a59687786950a4b3c2d1e0f5f2b3c0d1e4a59687786950a4b3c2d"
_FILE = {
    "type": "string",
    "format": "binary",
    "description": f"An X-ray, up to {MAX_BYTES} bytes and {MAX_PIXELS} pixels.",
}
_ORIGIN = ("model", "model_sha256", "provider")


def document(meaning: Meaning) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of a service whose answers mean this."""
    said = _example(meaning)
    origin = {"model": "model_saved", "model_sha256": _SHA, "provider": "CPUExecutionProvider"}
    problem = {"title": "Unprocessable Content", "status": 422, "code": "too_small", "detail": "…"}
    batch = origin | {"results": [{"prediction": said}, {"problem": problem}]}
    explained = {
        "class": said["class"],
        "label": said["label"],
        "edge_map": "iVBORw0KGgo…",
        "heat": "iVBORw0KGgo…",
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "X-ray classifier",
            "version": __version__,
            "description": "Grades one knee X-ray. Not a medical device.",
        },
        "paths": {
            "/predict": {"post": _predict(meaning, said | origin)},
            "/predict_batch": {"post": _predict_batch(batch)},
            "/explain": {"post": _explain(explained)},
            "/info": {"get": _get("What is served, its proof, and whether it is ready.", "Info")},
            "/livez": {"get": _plain("200 while the process lives.", False)},
            "/readyz": {"get": _plain("200 while the model answers, else 503.", False, "503")},
            "/metrics": {"get": _plain("Counters in Prometheus' text format.")},
            "/docs.json": {"get": _plain("This document.")},
            "/": {"get": {"responses": {"307": {"description": "To the page at /app."}}}},
            "/app": {"get": _plain("A page to drop X-rays on.", False)},
            **protocol.paths(),
        },
        "components": {
            "schemas": {
                "Prediction": _prediction(meaning, _ORIGIN),
                "Said": _prediction(meaning),
                "Batch": _batch(),
                "Explanation": _explanation(meaning),
                "Info": {"type": "object"},
                "Problem": _problem(problem),
            },
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
    files = {"type": "array", "items": _FILE, "maxItems": MAX_FILES}
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
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    refused = {"description": "Refused; `code` and `detail` say why.", "content": content}
    statuses = sorted({"400", "401", "408", "413", "415", "422", "503", *more})
    return dict.fromkeys(statuses, refused)


def _get(description: str, schema: str) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    refused = {"401": _refusals()["401"]}
    return {"responses": {"200": {"description": description, "content": content}, **refused}}


def _plain(description: str, secured: bool = True, *refused: str) -> dict[str, Any]:
    statuses = (*refused, "401") if secured else refused
    answers = {"200": {"description": description}} | {s: _refusals()[s] for s in statuses}
    return {"responses": answers} | ({} if secured else {"security": []})


def _example(meaning: Meaning) -> dict[str, Any]:
    """Return what would be said of an X-ray of the first class."""
    import numpy as np

    share = 0.15 / max(1, len(meaning.classes) - 1)
    row = np.array([0.85] + [share] * (len(meaning.classes) - 1))
    said = meaning.answer(row.astype(np.float32), 0.0)
    return said | {"probabilities": [round(each, 4) for each in row.tolist()]}


def _prediction(meaning: Meaning, more: tuple[str, ...] = ()) -> dict[str, Any]:
    classes = meaning.classes
    added: dict[str, Any] = {}
    if meaning.grades:
        added["expected_grade"] = {
            "type": "number",
            "minimum": min(map(min, meaning.grades)),
            "maximum": max(map(max, meaning.grades)),
            "description": "On the Kellgren-Lawrence scale.",
        }
    if meaning.abstain_below is not None:
        added["abstain"] = {
            "type": "boolean",
            "description": (
                f"Whether the largest probability is below {meaning.abstain_below:.3f}: too "
                "small to go by."
            ),
        }
    if meaning.novelty_limit is not None:
        added["in_scope"] = {
            "type": "boolean",
            "description": "Whether it looks like the X-rays that the model knows.",
        }
    return {
        "type": "object",
        "required": ["class", "label", "probabilities", *added, *more],
        "properties": {
            "class": {"type": "integer", "minimum": 0, "maximum": len(classes) - 1},
            "label": {"type": "string", "enum": list(classes)},
            "probabilities": {
                "type": "array",
                "items": {"type": "number", "minimum": 0, "maximum": 1},
                "minItems": len(classes),
                "maxItems": len(classes),
            },
            **added,
            **{name: _origin()[name] for name in more},
        },
    }


def _origin() -> dict[str, Any]:
    return {
        "model": {"type": "string"},
        "model_sha256": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
        "provider": {"type": "string", "description": "What of ONNX Runtime ran it."},
    }


def _batch() -> dict[str, Any]:
    prediction = {"prediction": {"$ref": "#/components/schemas/Said"}}
    problem = {"problem": {"$ref": "#/components/schemas/Problem"}}
    either = [
        {"type": "object", "required": list(each), "properties": each}
        for each in (prediction, problem)
    ]
    results = {"type": "array", "items": {"oneOf": either}, "maxItems": MAX_FILES}
    return {
        "type": "object",
        "required": [*_ORIGIN, "results"],
        "properties": _origin() | {"results": results},
    }


def _explanation(meaning: Meaning) -> dict[str, Any]:
    picture = {"type": "string", "contentEncoding": "base64", "contentMediaType": "image/png"}
    return {
        "type": "object",
        "required": ["class", "label", "edge_map", "heat"],
        "properties": {
            "class": {"type": "integer", "minimum": 0, "maximum": len(meaning.classes) - 1},
            "label": {"type": "string", "enum": list(meaning.classes)},
            "edge_map": picture | {"description": "What the second input is given."},
            "heat": picture | {"description": "Red speaks for the class, blue against it."},
        },
    }


def _problem(example: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["title", "status", "code", "detail"],
        "properties": {
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "code": {"type": "string"},
            "detail": {"type": "string"},
        },
        "examples": [example],
    }
