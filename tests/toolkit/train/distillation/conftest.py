"""Teachers of the small generated X-rays."""

import pytest
import torch

from toolkit.model.files import ModelFiles
from toolkit.train.finish import judge, save_training
from toolkit.train.recipes import recipe
from toolkit.train.training import Training

TEACHERS = {"first": 1, "second": 2}


@pytest.fixture(scope="session")
def teachers_folder(tiny, tmp_path_factory):
    """A folder with two trained models, `first` and `second`."""
    folder = tmp_path_factory.mktemp("teachers")
    for name, seed in TEACHERS.items():
        chosen = recipe("default", layer_size=1, epochs=1, batch_size=16)
        training = Training(tiny, chosen, seed, torch.device("cpu"))
        training.run(folder / "state.pt", lambda _: None)
        save_training(training, judge(training, name), ModelFiles(folder, name))
    return folder
