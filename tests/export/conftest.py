"""One small model of random weights, exported and proven once for all tests of this folder."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from export import export
from export.compare.equivalence import references
from export.compare.samples import Samples, samples
from export.convert.pipeline import Pipeline, load_pipeline
from toolkit.files import sha256
from toolkit.model import manifest
from toolkit.model.files import ModelFiles
from toolkit.networks.preprocessing import Preprocessing
from toolkit.networks.study import IntermediarySpaceModel, parameter_count
from toolkit.train import checkpoint, novelty
from toolkit.train.dataset import generated
from toolkit.xray.labels import label_map

TEMPERATURE = 1.7


@dataclass(frozen=True)
class Small:
    """An exported model, open as PyTorch, with samples and what PyTorch makes of them."""

    files: ModelFiles
    record: manifest.Manifest
    pipeline: Pipeline
    inputs: Samples
    reference: dict[str, np.ndarray]


def small_network():
    """A network whose logits follow its inputs: PyTorch's own first weights hardly do."""
    torch.manual_seed(0)
    network = IntermediarySpaceModel(layer_size=4, dropout=0.5, classes=4)
    for parameter in network.parameters():
        if parameter.ndim > 1:
            torch.nn.init.kaiming_normal_(parameter)
    return network.eval()


def save_model(files, network):
    """Write the checkpoint, scope and manifest that a training would have left."""
    checkpoint.save(network.state_dict(), files.checkpoint)
    constants = manifest.PreprocessingConstants()
    found, limit, within = novelty.fit(
        network, Preprocessing(constants), generated(32, label_map("study"))
    )
    record = manifest.Manifest(
        name=files.name,
        labels=label_map("study"),
        preprocessing=constants,
        dataset=manifest.DatasetRecord("generated", "patient", {}, {}, "", 0, 0, 0),
        network=manifest.NetworkRecord(network.layer_size, 0.5, parameter_count(network)),
        training=manifest.TrainingRecord(sha256(files.checkpoint), {}, 0, "cpu", 0, {}, {}),
        calibration=manifest.CalibrationRecord("val", 9, TEMPERATURE, 0.2, 0.1, 0.5, 0.3, 0.05),
        scope=manifest.ScopeRecord(novelty.save(found, files), "val", 9, limit, within),
    )
    manifest.save(record, files.manifest)


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """The model; its files are not to be changed: ask for `copied` to do that."""
    files = ModelFiles(tmp_path_factory.mktemp("small"), "small")
    save_model(files, small_network())
    record = export.export("onnx", files, files).record
    assert record.equivalence.passed, record.equivalence
    pipeline = load_pipeline(files, record)
    # Two of each kind are enough where a fault is planted.
    every = samples()
    few = [i for i, kind in enumerate(every.kinds) if every.kinds[:i].count(kind) < 2]
    inputs = Samples(every.pixels[few], tuple(every.kinds[i] for i in few))
    return Small(files, record, pipeline, inputs, references(pipeline, inputs))


@pytest.fixture
def copied(small, tmp_path):
    """The model's files in a folder of their own."""
    folder = tmp_path / "models"
    shutil.copytree(small.files.folder, folder)
    return ModelFiles(folder, small.files.name)


@pytest.fixture(scope="session")
def changed():
    """Return a function that rewrites one initializer of an ONNX file, by the end of its name."""

    def change(path: Path, ending, function):
        model = onnx.load(path)
        (found,) = [each for each in model.graph.initializer if each.name.endswith(ending)]
        array = np.array(numpy_helper.to_array(found))
        found.CopyFrom(numpy_helper.from_array(function(array), found.name))
        onnx.save(model, path)

    return change
