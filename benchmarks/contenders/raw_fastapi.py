"""FastAPI on uvicorn with uvloop and httptools; the file as the body, no validation of an answer.

The model runs in the event loop: one thread a worker, as everywhere here.
"""

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from model import Model

app = FastAPI()
model = Model()


@app.post("/predict")
async def predict(request: Request):
    """Return what is said of the body."""
    return JSONResponse(model.of_files([await request.body()])[0])
