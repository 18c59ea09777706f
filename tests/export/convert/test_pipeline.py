"""The pipeline with its inputs apart explains alike in ONNX and PyTorch, and only if proven."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from export.convert.pipeline import torch_explainer
from toolkit import cli
from toolkit.errors import ModelRefusedError, ToolkitError
from toolkit.model import manifest
from toolkit.runtime.occlusion import occlusion
from toolkit.runtime.session import open_explainer, open_model


def test_onnx_and_pytorch_explain_alike(small, drawn_xrays):
    xray = drawn_xrays[3]
    views, model = torch_explainer(small.pipeline, xray)
    predictor = open_model(small.files.folder, small.files.name)
    assert np.array_equal(views["edge_map"], predictor.views(xray)["edge_map"])
    pictures = {"xray": xray} | views
    theirs = occlusion(model, pictures)
    mine = occlusion(open_explainer(small.files, small.record), pictures)
    assert mine.target == theirs.target
    for name in ("xray", "edge_map"):
        ours, expected = mine.falls[name], theirs.falls[name]
        assert np.abs(expected).max() > 0.01
        np.testing.assert_allclose(ours, expected, atol=1e-4 * np.abs(expected).max())


def test_with_its_own_edge_map_the_explainer_gives_the_pipelines_logits(small, drawn_xrays):
    predictor = open_model(small.files.folder, small.files.name)
    edge_maps = predictor.run(["edge_map"], drawn_xrays)["edge_map"]
    explainer = open_explainer(small.files, small.record)
    given = explainer({"xray": drawn_xrays, "edge_map": edge_maps})
    expected = predictor.predict(drawn_xrays).logits
    np.testing.assert_allclose(given, expected, atol=1e-5 * np.abs(expected).max())


def test_an_explainer_that_was_changed_is_refused(copied):
    with copied.path("explainer").open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(ModelRefusedError, match="not the file that was proven"):
        open_explainer(copied, manifest.load(copied.manifest))


@pytest.fixture
def xray(tmp_path, drawn_xrays):
    path = tmp_path / "knee.png"
    Image.fromarray(drawn_xrays[0]).save(path)
    return path


def explain(files, *arguments):
    words = ["explain", files.name, *arguments, "--models", files.folder]
    return cli.app(list(map(str, words)), standalone_mode=False)


@pytest.mark.parametrize("engine", ["onnx", "torch"])
def test_the_command_writes_a_picture_and_says_what_moved_the_decision(
    small, xray, tmp_path, capsys, engine
):
    out = tmp_path / "heat.png"
    explain(small.files, xray, "--out", out, "--class", "severe", "--engine", engine, "--json")
    told = json.loads(capsys.readouterr().out)
    assert (told["class"], told["label"], told["picture"]) == (3, "severe", str(out))
    assert min(told["strongest_nats"].values()) > 0
    with Image.open(out) as picture:
        assert picture.format == "PNG"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--class", "bad"), "no class 'bad': choose one of none, minimal"),
        (("--out", "heat.jpg"), "does not end in .png"),
    ],
)
def test_what_cannot_be_explained_is_refused(small, xray, arguments, message):
    with pytest.raises(ToolkitError, match=message):
        explain(small.files, xray, *arguments)
    assert not Path("heat.jpg").exists()


def test_without_the_explainers_file_the_export_is_named(copied, xray, tmp_path):
    copied.path("explainer").unlink()
    with pytest.raises(ModelRefusedError, match=r"no exported explainer.*toolkit export onnx"):
        explain(copied, xray, "--out", tmp_path / "heat.png")
    assert not (tmp_path / "heat.png").exists()
