"""Answers the page as the service does: `stand_in.py --port PORT`, and its environment."""

import base64
import io
import os
import sys
from pathlib import Path

import uvicorn
from PIL import Image
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from bento.app import problem
from bento.page import routes
from bento.session import open_explainer, open_model
from bento.upload import uploaded_xray
from toolkit import manifest
from toolkit.errors import ImageError
from toolkit.heat_picture import drawn
from toolkit.images import decode
from toolkit.occlusion import occlusion
from toolkit.store import ModelFiles

FILES = ModelFiles(Path(os.environ["TOOLKIT_MODELS"]), os.environ["TOOLKIT_MODEL"])
RECORD = manifest.load(FILES.manifest)
PREDICTOR = open_model(FILES.folder, FILES.name)
CLASSIFY = open_explainer(FILES, RECORD)
TOKEN = os.environ.get("TOOLKIT_TOKEN")


def guarded(handler):
    async def answer(request):
        if TOKEN and request.headers.get("authorization") != f"Bearer {TOKEN}":
            return problem(401, "no_token", "send the header Authorization: Bearer TOKEN")
        try:
            return JSONResponse(await handler(request))
        except ImageError as error:
            return problem(error.status, error.code, str(error))

    return answer


async def predict(request):
    content = await uploaded_xray(request)
    model = {"model": RECORD.name, "model_sha256": PREDICTOR.sha256}
    return PREDICTOR.answer(decode(content)) | model | {"provider": PREDICTOR.provider}


def png(pixels):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


async def explain(request):
    xray = decode(await uploaded_xray(request))
    edge_map = PREDICTOR.edge_map(xray[None])[0]
    heat = occlusion(CLASSIFY, xray, edge_map)
    label = RECORD.labels.classes[heat.target]
    picture = drawn(xray, edge_map, heat, f"{RECORD.name}: what speaks for {label!r}")
    text = {"edge_map": png(edge_map), "heat": picture}
    return {"class": heat.target, "label": label} | {
        name: base64.b64encode(content).decode() for name, content in text.items()
    }


async def info(_):
    leg = RECORD.equivalence.legs["pipeline"]
    return {
        "model": RECORD.name,
        "model_sha256": PREDICTOR.sha256,
        "classes": RECORD.labels.classes,
        "grades": RECORD.labels.grades,
        "equivalence": {
            "passed": RECORD.equivalence.passed,
            "samples": sum(RECORD.equivalence.inputs.values()),
            "max_abs": {"logits": 1e-6, "probabilities": 2e-7} if leg.passed else {},
        },
        "provider": {"requested": "auto", "active": PREDICTOR.provider},
        "precision": "fp32",
        "ready": True,
        "reason": None,
        "versions": {},
    }


async def ready(_):
    return JSONResponse({})


application = Starlette(
    routes=[
        *routes(),
        Route("/predict", guarded(predict), methods=["POST"]),
        Route("/explain", guarded(explain), methods=["POST"]),
        Route("/info", guarded(info)),
        Route("/readyz", ready),
    ]
)
if __name__ == "__main__":
    uvicorn.run(application, port=int(sys.argv[-1]), log_level="warning")
