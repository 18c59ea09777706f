"""The model that all contenders run, each process with one thread."""

from pathlib import Path

from msgspec import to_builtins

from toolkit.runtime.session import open_model
from toolkit.xray.reading import decode

MODELS = Path(__file__).resolve().parents[2] / "saved_models"


class Model:
    """The shipped model on the CPU."""

    def __init__(self):
        self.predictor = open_model(MODELS, "model_saved", "cpu", threads=1)

    def of_files(self, contents):
        """Return what is said of each of some files, which run together."""
        return to_builtins(self.predictor.answers([decode(each) for each in contents]))
