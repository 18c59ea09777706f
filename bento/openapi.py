"""The service's own OpenAPI document: BentoML's leaves mounted routes out."""

from typing import Any

from bento.answer import Meaning
from bento.upload import FIELD
from toolkit import __version__
from toolkit.images import MAX_BYTES, MAX_PIXELS

_PROBLEM = {
    "description": "Refused; `code` and `detail` say why.",
    "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
}


def document(meaning: Meaning) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of a service whose answers mean this."""
    classes = meaning.classes
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "X-ray classifier",
            "version": __version__,
            "description": "Grades one knee X-ray. Not a medical device.",
        },
        "paths": {
            "/predict": {"post": _predict(classes)},
            "/docs.json": {"get": _plain("This document.")},
            "/livez": {"get": _plain("200 while the process lives.")},
            "/readyz": {"get": _plain("200 once the model is ready, else 503.")},
        },
        "components": {"schemas": {"Prediction": _prediction(meaning), "Problem": _problem()}},
    }


def _predict(classes: tuple[str, ...]) -> dict[str, Any]:
    return {
        "summary": f"Class and probabilities of one X-ray: {', '.join(classes)}.",
        "operationId": "predict",
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {
                    "schema": {
                        "type": "object",
                        "required": [FIELD],
                        "properties": {
                            FIELD: {
                                "type": "string",
                                "format": "binary",
                                "description": (
                                    f"PNG or JPEG, up to {MAX_BYTES} bytes and {MAX_PIXELS} pixels."
                                ),
                            }
                        },
                    }
                }
            },
        },
        "responses": {
            "200": {
                "description": "What the model says.",
                "content": {
                    "application/json": {"schema": {"$ref": "#/components/schemas/Prediction"}}
                },
            },
            "400": _PROBLEM,
            "413": _PROBLEM,
            "415": _PROBLEM,
            "422": _PROBLEM,
        },
    }


def _plain(description: str) -> dict[str, Any]:
    return {"responses": {"200": {"description": description}}}


def _prediction(meaning: Meaning) -> dict[str, Any]:
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
        "required": ["class", "label", "probabilities", "model", "model_sha256", *added],
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
            "model": {"type": "string"},
            "model_sha256": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
        },
    }


def _problem() -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["title", "status", "code", "detail"],
        "properties": {
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "code": {"type": "string"},
            "detail": {"type": "string"},
        },
    }
