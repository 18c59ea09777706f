"""One small model, exported and proven once, and X-rays to send."""

import io
import shutil

import numpy as np
import pytest
from PIL import Image

from toolkit.store import ModelFiles
from toolkit.synthetic import generate


@pytest.fixture(scope="session")
def served(tmp_path_factory):
    """The model's files; they are not to be changed: ask for `copied` to do that."""
    import torch

    from export.conversion import export
    from toolkit import checkpoint, manifest
    from toolkit.files import sha256
    from toolkit.labels import label_map
    from toolkit.network import IntermediarySpaceModel, parameter_count

    files = ModelFiles(tmp_path_factory.mktemp("served"), "served")
    torch.manual_seed(1)
    network = IntermediarySpaceModel(layer_size=4, dropout=0.5, classes=4)
    for parameter in network.parameters():
        # PyTorch's own first weights give nearly the same logits for any X-ray.
        if parameter.ndim > 1:
            torch.nn.init.kaiming_normal_(parameter)
    with torch.no_grad():
        network.outputCombiner[8].weight /= 8
    checkpoint.save(network.state_dict(), files.checkpoint)
    record = manifest.Manifest(
        name=files.name,
        labels=label_map("study"),
        preprocessing=manifest.PreprocessingConstants(),
        dataset=manifest.DatasetRecord("generated", "patient", {}, {}, "", 0, 0, 0),
        network=manifest.NetworkRecord(4, 0.5, parameter_count(network)),
        training=manifest.TrainingRecord(sha256(files.checkpoint), {}, 0, "cpu", 0, {}, {}),
        calibration=manifest.CalibrationRecord("val", 9, 1.7, 0.2, 0.1, 0.5, 0.3, 0.05),
    )
    manifest.save(record, files.manifest)
    result = export("onnx", files, files).record
    assert result.equivalence.passed, result.equivalence
    return files


@pytest.fixture
def copied(served, tmp_path):
    """The model's files in a folder of their own."""
    folder = tmp_path / "models"
    shutil.copytree(served.folder, folder)
    return ModelFiles(folder, served.name)


@pytest.fixture(scope="session")
def xrays():
    """Generated X-rays: uint8 (8, 224, 224)."""
    return np.stack([each.pixels for each in generate(8, seed=5)])


@pytest.fixture(scope="session")
def encoded():
    """Return a function that makes a file of pixels, in the format that Pillow calls so."""

    def encode(pixels, kind="PNG"):
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, kind)
        return stream.getvalue()

    return encode
