"""JSON schemas of what the service answers."""

from typing import Any

from bento.http.upload import MAX_FILES
from toolkit.model.answer import Meaning

ORIGIN = ("model", "model_sha256", "provider")
"""What every answer says of the model that gave it."""


def prediction(meaning: Meaning, more: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the schema of one X-ray's answer; `more` are members of `ORIGIN`."""
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
            **_verdict(classes),
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


def _verdict(classes: tuple[str, ...]) -> dict[str, Any]:
    return {
        "class": {"type": "integer", "minimum": 0, "maximum": len(classes) - 1},
        "label": {"type": "string", "enum": list(classes)},
    }


def _origin() -> dict[str, Any]:
    return {
        "model": {"type": "string"},
        "model_sha256": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
        "provider": {"type": "string", "description": "What of ONNX Runtime ran it."},
    }


def batch() -> dict[str, Any]:
    """Return the schema of several X-rays' answer."""
    prediction = {"prediction": {"$ref": "#/components/schemas/Said"}}
    problem = {"problem": {"$ref": "#/components/schemas/Problem"}}
    either = [
        {"type": "object", "required": list(each), "properties": each}
        for each in (prediction, problem)
    ]
    results = {"type": "array", "items": {"oneOf": either}, "maxItems": MAX_FILES}
    return {
        "type": "object",
        "required": [*ORIGIN, "results"],
        "properties": _origin() | {"results": results},
    }


def explanation(meaning: Meaning) -> dict[str, Any]:
    """Return the schema of what a decision went by."""
    picture = {"type": "string", "contentEncoding": "base64", "contentMediaType": "image/png"}
    return {
        "type": "object",
        "required": ["class", "label", "edge_map", "heat"],
        "properties": {
            **_verdict(meaning.classes),
            "edge_map": picture | {"description": "What the second input is given."},
            "heat": picture | {"description": "Red speaks for the class, blue against it."},
        },
    }


def problem(example: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a refusal (RFC 9457)."""
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


def info() -> dict[str, Any]:
    """Return the schema of what is said of the model."""
    text, flag = {"type": "string"}, {"type": "boolean"}
    properties: dict[str, Any] = {
        "model": text,
        "model_sha256": _origin()["model_sha256"],
        "checkpoint_sha256": text,
        "classes": {"type": "array", "items": text},
        "grades": {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}},
        "equivalence": {
            "type": "object",
            "required": ["passed", "samples", "max_abs"],
            "properties": {
                "passed": flag,
                "samples": {"type": "integer"},
                "max_abs": {"type": "object", "additionalProperties": {"type": "number"}},
            },
        },
        "provider": {
            "type": "object",
            "required": ["requested", "active"],
            "properties": {"requested": text, "active": {"type": ["string", "null"]}},
        },
        "precision": text,
        "ready": flag,
        "reason": {"type": ["string", "null"]},
        "versions": {"type": "object", "additionalProperties": text},
    }
    return {"type": "object", "required": list(properties), "properties": properties}
