"""What the service's OpenAPI document says of the routes below /v2."""

from collections.abc import Sequence
from typing import Any

from bento.v2.protocol import MODEL, VERSION
from bento.v2.tensors import INPUT, MAX_BATCH, MAX_BODY
from toolkit.xray.reading import SIZE


def paths() -> dict[str, Any]:
    """Return the OpenAPI path items of these routes."""
    found: dict[str, Any] = {
        "/v2": _item("Name, version and extensions of the server."),
        "/v2/health/live": _item("200 while no model is stuck, else 503.", (), "503"),
        "/v2/health/ready": _item("200 once it takes requests, else 503.", ready=True),
    }
    for path in (MODEL, VERSION):
        names = ["name", "version"] if path == VERSION else ["name"]
        found[path] = _item("Inputs and outputs of the model.", names, "404", "503")
        about = "Whether the model is ready."
        found[f"{path}/ready"] = _item(about, names, "404", ready=True)
        item = _item(
            f"Outputs of up to {MAX_BATCH} X-rays: input {INPUT}, UINT8 [N, {SIZE}, {SIZE}], as "
            f"JSON or as raw bytes after it; at most {MAX_BODY} bytes, not compressed.",
            names,
            *("400", "404", "408", "413", "415", "429", "503"),
        )
        any_body = {
            "application/json": {"schema": {"type": "object", "required": ["inputs"]}},
            "application/octet-stream": {},
        }
        post = item.pop("get") | {"requestBody": {"required": True, "content": any_body}}
        post["responses"]["200"]["content"]["application/octet-stream"] = {}
        found[f"{path}/infer"] = item | {"post": post}
    return found


def schemas() -> dict[str, Any]:
    """Return the schemas that the path items refer to, but `Problem`."""
    error = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
    ready = {"type": "object", "required": ["ready"], "properties": {"ready": {"type": "boolean"}}}
    return {
        "ProtocolProblem": {"allOf": [{"$ref": "#/components/schemas/Problem"}, error]},
        "Ready": ready,
    }


def _item(
    description: str, names: Sequence[str] = (), *refusals: str, ready: bool = False
) -> dict[str, Any]:
    problem = {"schema": {"$ref": "#/components/schemas/ProtocolProblem"}}
    refused = {
        "description": "Refused; `error` says why.",
        "content": {"application/problem+json": problem},
    }
    said = {"$ref": "#/components/schemas/Ready"} if ready else {"type": "object"}
    answer = {"application/json": {"schema": said}}
    responses = {
        "200": {"description": description, "content": dict(answer)},
        **{status: dict(refused) for status in ("401", *refusals)},
    }
    if ready:
        responses["503"] = {"description": "Not ready.", "content": answer}
    parameters = [
        {"name": each, "in": "path", "required": True, "schema": {"type": "string"}}
        for each in names
    ]
    return {
        "get": {"summary": description, "tags": ["Open Inference Protocol"], "responses": responses}
    } | ({"parameters": parameters} if parameters else {})
