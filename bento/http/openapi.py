"""The service's own OpenAPI document, from the table of routes and the types of the answers."""

import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import msgspec
import numpy as np

from bento.http.form import FIELD, MAX_FILES
from bento.http.routes import ROUTES, Route
from bento.http.upload import MAX_BATCH_BYTES, RAW_TYPES
from bento.v2.tensors import INPUT, MAX_BATCH, MAX_BODY
from toolkit import __version__
from toolkit.model.answer import (
    Answer,
    Batch,
    Explanation,
    Info,
    Meaning,
    OperatingPoint,
    Prediction,
    Problem,
    ProtocolProblem,
    Result,
)
from toolkit.xray.reading import MAX_BYTES, MAX_PIXELS, SIZE

_REF = "#/components/schemas/{name}"
_FILE = {
    "type": "string",
    "format": "binary",
    "description": f"An X-ray, up to {MAX_BYTES} bytes and {MAX_PIXELS} pixels.",
}
_FILES = {
    "type": "array",
    "items": _FILE,
    "minItems": 1,
    "maxItems": MAX_FILES,
    "description": f"At most {MAX_FILES} files and {MAX_BATCH_BYTES} bytes.",
}


def _form(field: dict[str, Any]) -> dict[str, Any]:
    return {"schema": {"type": "object", "required": [FIELD], "properties": {FIELD: field}}}


_BODIES: dict[str, dict[str, Any]] = {
    "file": {"multipart/form-data": _form(_FILE)}
    | {kind.decode(): {"schema": _FILE} for kind in RAW_TYPES},
    "files": {"multipart/form-data": _form(_FILES)},
}


def bodies(shape: tuple[int, ...]) -> dict[str, dict[str, Any]]:
    """Return what the body of a route may be; `shape` is that of one X-ray."""
    sides = ", ".join(map(str, shape))
    tensors = {
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["inputs"],
                "description": f"Up to {MAX_BATCH} X-rays: input {INPUT}, UINT8 [N, {sides}]; at "
                f"most {MAX_BODY} bytes, not compressed.",
            }
        },
        "application/octet-stream": {},
    }
    return _BODIES | {"tensors": tensors}


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
    "location": {"required": True, "schema": {"type": "string"}},
}
_HEADERS_OF = {
    307: ("location",),
    401: ("www-authenticate",),
    429: ("retry-after",),
    503: ("retry-after",),
}


def document(
    meaning: Meaning, shape: tuple[int, ...] = (SIZE, SIZE), views: Sequence[str] = ("edge_map",)
) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of a service.

    Args:
        meaning: of its answers.
        shape: of one X-ray.
        views: what it shows beside the X-ray, by name.
    """
    listed = [route for route in ROUTES if route.summary]
    examples = _examples(meaning, views)
    known = bodies(shape)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "X-ray classifier",
            "version": __version__,
            "description": f"Classifies one X-ray: {', '.join(meaning.classes)}. Not a medical "
            "device.",
        },
        "paths": {route.path: _path_item(route, examples, known) for route in listed},
        "components": {
            "schemas": _schemas(meaning, views, {route.answer for route in listed if route.answer}),
            "headers": _HEADERS,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        # An empty one beside it: the token is only asked for where the service has one.
        "security": [{}, {"token": []}],
    }


def _path_item(
    route: Route, examples: dict[type, Any], known: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    content: dict[str, Any] = {kind: {} for kind in route.kinds}
    if "application/json" in content:
        content["application/json"] = _json(route.answer, examples)
    statuses = {route.success: {"description": route.summary, "content": content}}
    for status in sorted({*route.others, *(() if route.is_open else (401,))}):
        statuses[status] = _other(route, status)
    for status, answer in statuses.items():
        names = sorted(("x-request-id", *_HEADERS_OF.get(status, ())))
        answer["headers"] = {name: {"$ref": f"#/components/headers/{name}"} for name in names}
    operation: dict[str, Any] = {
        "summary": route.summary,
        "responses": {str(status): answer for status, answer in statuses.items()},
    }
    if route.body:
        operation["requestBody"] = {"required": True, "content": known[route.body]}
    if route.is_open:
        operation["security"] = []
    if route.name == "v2":
        operation["tags"] = ["Open Inference Protocol"]
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"{(\w+)}", route.path)
    ]
    return {route.methods[0].lower(): operation, "parameters": parameters}


def _json(answer: type | None, examples: dict[type, Any]) -> dict[str, Any]:
    if answer is None:
        return {"schema": {"type": "object"}}
    content = {"schema": {"$ref": _REF.format(name=answer.__name__)}}
    return content | ({"example": examples[answer]} if answer in examples else {})


def _other(route: Route, status: int) -> dict[str, Any]:
    if status == 304:
        return {"description": "It is as it was."}
    if status == 503 and route.answer and route.answer.__name__ == "Ready":
        return {
            "description": "Not ready.",
            "content": {"application/json": _json(route.answer, {})},
        }
    problem = ProtocolProblem if route.name == "v2" else Problem
    return {
        "description": "Refused; `code` and `detail` say why.",
        "content": {"application/problem+json": _json(problem, {})},
    }


def _schemas(meaning: Meaning, views: Sequence[str], answers: set[type]) -> dict[str, Any]:
    """Return the schemas of all answers, narrowed to what this model can say."""
    types = sorted({*answers, Problem, ProtocolProblem}, key=lambda answer: answer.__name__)
    _, schemas = msgspec.json.schema_components(types, ref_template=_REF)
    said = msgspec.to_builtins(_example(meaning))
    for schema in schemas.values():
        for part in schema["properties"].values():
            # What is None is left out.
            if part.pop("default", 0) is None:
                part |= next(kind for kind in part.pop("anyOf") if kind != {"type": "null"})
    for name in (Answer.__name__, Prediction.__name__, Explanation.__name__):
        properties = schemas[name]["properties"]
        properties["class"]["maximum"] = len(meaning.classes) - 1
        properties["label"]["enum"] = list(meaning.classes)
    for name in (Answer.__name__, Prediction.__name__):
        properties, count = schemas[name]["properties"], len(meaning.classes)
        properties["probabilities"] |= {"minItems": count, "maxItems": count}
        for field in Answer.__struct_encode_fields__:
            if field not in said:
                del properties[field]
            elif field not in schemas[name]["required"]:
                schemas[name]["required"].append(field)
        if "decision" in said:
            properties["decision"]["enum"] = list(meaning.classes)
        if "expected_grade" in properties and meaning.scale:
            properties["expected_grade"]["description"] = f"On the {meaning.scale} scale."
    if meaning.operating_point:
        schemas[Info.__name__]["required"].append("operating_point")
    else:
        del schemas[Info.__name__]["properties"]["operating_point"]
        del schemas[OperatingPoint.__name__]
    explained = schemas[Explanation.__name__]
    picture = explained["properties"]["views"]["additionalProperties"]
    explained["properties"]["views"] |= {
        "properties": dict.fromkeys(views, picture),
        "required": list(views),
    }
    if "edge_map" in views:
        explained["required"].append("edge_map")
    else:
        del explained["properties"]["edge_map"]
    schemas[Batch.__name__]["properties"]["results"]["maxItems"] = MAX_FILES
    result = schemas[Result.__name__]
    result["oneOf"] = [{"required": [name]} for name in result["properties"]]
    return schemas


def _examples(meaning: Meaning, views: Sequence[str]) -> dict[type, Any]:
    answer = _example(meaning)
    sha256 = "5f2b3c0d1e4a59687786950a4b3c2d1e0f5f2b3c0d1e4a59687786950a4b3c2d"
    origin: dict[str, Any] = {
        "model": "model_saved",
        "model_sha256": sha256,
        "provider": "CPUExecutionProvider",
    }
    problem = Problem(HTTPStatus(422).phrase, 422, "too_small", "…")
    picture = "iVBORw0KGgo…"
    shown = dict.fromkeys(views, picture)
    examples = (
        Prediction(**msgspec.structs.asdict(answer), **origin),
        Batch(**origin, results=(Result(prediction=answer), Result(problem=problem))),
        Explanation(answer.class_index, answer.label, picture, shown, shown.get("edge_map")),
    )
    return {type(example): msgspec.to_builtins(example) for example in examples}


def _example(meaning: Meaning) -> Answer:
    """Return what would be said of an X-ray of the first class."""
    others = len(meaning.classes) - 1
    shares = np.array([0.85, *[0.15 / max(1, others)] * others])
    answer = meaning.answer(shares.astype(np.float32), 0.0)
    return msgspec.structs.replace(answer, probabilities=tuple(shares.round(4).tolist()))
