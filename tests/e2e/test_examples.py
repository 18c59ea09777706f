"""The examples' networks go all the way: trained briefly on drawn X-rays, exported and proven."""

from pathlib import Path

import pytest
from command_line import run

from toolkit.model import manifest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.mark.full
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("name", "inputs"), [("alexnet", {"grey"}), ("resnet_edges", {"grey", "edges"})]
)
def test_an_example_is_trained_exported_and_equal_to_pytorch(tmp_path, name, inputs):
    """Batch norm, residuals and dropout among it."""
    places = ("--models", tmp_path / "models", "--name", name)
    network = ("--network", EXAMPLES / f"{name}.py", "--config", "width=4")
    run("train", *network, *places, "--logs", tmp_path / "logs", "--epochs", 1)
    record = manifest.load(tmp_path / f"models/{name}.json")
    assert record.labels.name == "study" and record.training.permutation.keys() == inputs
    assert run("export", "onnx", name, *places[:2])["passed"]
    # Batch norm goes into the convolutions as the graph is optimised: no logit moves by it.
    legs = manifest.load(tmp_path / f"models/{name}.json").equivalence.legs
    assert legs["pipeline"].passed and legs["pipeline"].argmax_agreement == 1
