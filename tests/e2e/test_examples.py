"""The examples' networks go all the way: trained briefly on drawn X-rays, exported and proven."""

import json
import sys
from pathlib import Path

import pytest

from toolkit import cli
from toolkit.model import manifest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture
def run(capsys, monkeypatch):
    """Return a function that runs a command in this process, and returns its JSON."""

    def command(*words):
        monkeypatch.setattr(sys, "argv", ["toolkit", *map(str, words), "--json"])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        assert ended.value.code == 0, err
        return json.loads(out)

    return command


@pytest.mark.full
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("name", "inputs"), [("alexnet", {"grey"}), ("resnet_edges", {"grey", "edges"})]
)
def test_an_example_is_trained_exported_and_equal_to_pytorch(run, tmp_path, name, inputs):
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
