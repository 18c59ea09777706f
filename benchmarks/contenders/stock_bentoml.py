"""A BentoML batch service as its documentation has it, with its defaults.

BentoML decodes the picture of a form and gathers batches of up to 100.
"""

import os

import bentoml
import numpy as np
from model import Model
from msgspec import to_builtins
from PIL import Image


@bentoml.service(workers=int(os.environ["WORKERS"]))
class Stock:
    """Takes the field `xray` of a form."""

    def __init__(self):
        self.predictor = Model().predictor

    @bentoml.api(batchable=True)
    def predict(self, xray: list[Image.Image]) -> list[dict]:
        """Return what is said of each."""
        xrays = [np.asarray(each.convert("L")) for each in xray]
        return to_builtins(self.predictor.answers(xrays))
