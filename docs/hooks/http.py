"""Writes the reference of the HTTP interface from the service's own OpenAPI document."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from toolkit.model.manifest import Manifest

MARK = "<!-- routes -->"
MODEL = Path(__file__).parents[2] / "saved_models/model_saved.json"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put every route and every schema in the place of the mark."""
    if MARK not in markdown:
        return markdown
    from bento.http.openapi import document
    from toolkit.model import manifest
    from toolkit.model.answer import meaning_of

    record = manifest.load(MODEL)
    described = document(meaning_of(record))
    answer = described["paths"]["/info"]["get"]["responses"]["200"]
    answer["content"]["application/json"]["example"] = _information(record)
    return markdown.replace(MARK, "\n".join(_lines(described)))


def _information(record: "Manifest") -> dict[str, Any]:
    """Return what a service on a CPU says of a model, without the versions of this machine."""
    from msgspec import to_builtins

    from bento.worker.assembly import Information
    from bento.worker.settings import settings
    from toolkit.model.answer import meaning_of

    assert record.export
    served = record.export.artifacts["pipeline"].sha256
    known = Information(settings({}), record, served, meaning_of(record), explains=True)
    said: dict[str, Any] = to_builtins(known.info("CPUExecutionProvider", ""))
    return said | {"versions": {"toolkit": "..."}}


def _lines(described: dict[str, Any]) -> Iterator[str]:
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            if isinstance(operation, dict):
                yield from _operation(f"{method.upper()} {path}", operation)
    yield from ("## Schemas", "")
    for name, schema in described["components"]["schemas"].items():
        yield from (f"### {name}", "")
        yield from _schema(schema)


def _operation(title: str, operation: dict[str, Any]) -> Iterator[str]:
    yield from (f"## {title}", "")
    for key in ("summary", "description"):
        if key in operation:
            yield from (operation[key], "")
    if operation.get("security") == []:
        yield from ("Open, also where the service has a token.", "")
    if "requestBody" in operation:
        kinds = ", ".join(f"`{each}`" for each in operation["requestBody"]["content"])
        yield from (f"Body: {kinds}.", "")
    yield from ("| status | | body |", "|---|---|---|")
    statuses: dict[str, list[str]] = {}
    for status, answer in operation["responses"].items():
        content = answer.get("content", {})
        bodies = ", ".join(_body(kind, each) for kind, each in content.items())
        statuses.setdefault(f"{answer['description']} | {bodies} |", []).append(status)
    for rest, those in statuses.items():
        yield f"| {', '.join(those)} | {rest}"
    yield ""
    for answer in operation["responses"].values():
        for each in answer.get("content", {}).values():
            if "example" in each:
                text = json.dumps(each["example"], indent=2, ensure_ascii=False)
                yield from ("```json", text, "```", "")


def _body(kind: str, content: dict[str, Any]) -> str:
    name = content.get("schema", {}).get("$ref", "").rpartition("/")[2]
    return f"`{kind}`" + (f" [{name}](#{name.lower()})" if name else "")


def _schema(schema: dict[str, Any]) -> Iterator[str]:
    properties = schema.get("properties", {})
    if not properties:
        yield from ("A JSON object.", "")
        return
    yield from ("| | type | |", "|---|---|---|")
    for name, each in properties.items():
        needed = "" if name in schema.get("required", ()) else "May be left out. "
        yield f"| `{name}` | {_type(each)} | {needed}{each.get('description', '')} |"
    yield ""


def _type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    for key in ("oneOf", "anyOf"):
        if key in schema:
            return " or ".join(_type(each) for each in schema[key])
    if "enum" in schema:
        return ", ".join(f"`{each}`" for each in schema["enum"])
    kind = schema.get("type", "any")
    kinds = " or ".join(kind) if isinstance(kind, list) else str(kind)
    if kinds == "array" and "items" in schema:
        return f"list of {_type(schema['items'])}"
    if kinds == "object" and "properties" in schema:
        inner = ", ".join(f"`{key}`: {_type(each)}" for key, each in schema["properties"].items())
        return f"object of {inner}"
    return kinds
