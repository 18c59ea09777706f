"""A network of one's own, from its training to a served answer equal to PyTorch's."""

import base64
import io
import os
import shutil
import sys
from pathlib import Path

import httpx
import numpy as np
import pyarrow.parquet
import pytest
from command_line import refused, run
from PIL import Image

from toolkit.files import sha256
from toolkit.model import manifest
from toolkit.model.files import ModelFiles
from toolkit.runtime.session import open_model
from toolkit.xray.reading import read_xray

DEFINITION = Path(__file__).with_name("own_networks.py")
BLOCKING = """

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "onnx", "own_networks"):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Block())
"""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Noise in colour, PNG, in folders called by its tint, of the parts train, val and test."""
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    for part, count in (("train", 48), ("val", 24), ("test", 8)):
        for number in range(count):
            tint = ("cool", "warm")[number % 2]
            pixels = random.integers(0, 160, (100, 120, 3))
            pixels[..., 0 if tint == "warm" else 2] += 90
            place = folder / part / tint
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(place / f"{part}{number}.png")
    return folder


@pytest.fixture(scope="module")
def table(pictures, tmp_path_factory):
    """A table that says of each picture what its folders say, and that each is of a patient."""
    path = tmp_path_factory.mktemp("table") / "pictures.csv"
    found = [each.relative_to(pictures) for each in sorted(pictures.glob("*/*/*.png"))]
    rows = [f"{each},{each.parts[1]},{each.stem},{each.parts[0]}" for each in found]
    path.write_text("\n".join(["file,label,patient,part", *rows]))
    return path


@pytest.fixture(scope="module")
def trained(pictures, table, tmp_path_factory):
    """A trained model's files; its definition is no longer where it was."""
    folder = tmp_path_factory.mktemp("own")
    own = shutil.copy(DEFINITION, folder / "own.py")
    places = ("--models", folder / "models", "--logs", folder / "logs")
    words = ("--network", own, "--data", pictures, "--labels", table)
    said = run("train", *words, "--name", "own", *places)
    assert said["metrics"]["test"]["accuracy"] > 0.9
    own.unlink()
    return ModelFiles(folder / "models", "own")


@pytest.fixture(scope="module")
def exported(trained):
    run("export", "onnx", "own", "--models", trained.folder)
    return trained


@pytest.mark.parametrize("command", ["train", pytest.param("tune", marks=pytest.mark.full)])
def test_what_has_no_operator_in_onnx_is_told_before_anything_is_trained(
    pictures, tmp_path, command
):
    own = tmp_path / "own.py"
    pooled = "functional.adaptive_avg_pool2d(maps, 1).flatten(1)"
    written = DEFINITION.read_text()
    assert pooled in written
    own.write_text(written.replace(pooled, "torch.linalg.svdvals(maps).mean(2)"))
    words = ("--network", own, "--data", pictures, "--logs", tmp_path / "logs")
    told = refused(command, *words)
    assert "own.py:" in told and "cannot be written as ONNX: " in told and "svd" in told
    assert not (tmp_path / "logs").exists()


def test_the_manifest_says_whose_network_it_is_and_what_each_input_is_worth(trained):
    record = manifest.load(trained.manifest)
    assert record.labels.classes == ("cool", "warm") and record.labels.grades == ()
    assert record.network.definition.source == "own.py:Colour"
    assert record.network.definition.config == {} and record.preprocessing is None
    assert record.training.permutation.keys() == {"colour", "grey", "means"}
    assert trained.path("definition").read_bytes() == DEFINITION.read_bytes()


@pytest.mark.full
def test_the_service_answers_as_pytorch_does_without_torch_and_the_definition(
    exported, pictures, tmp_path, serving
):
    served = ModelFiles(shutil.copytree(exported.folder, tmp_path / "models"), "own")
    served.path("definition").unlink()
    (tmp_path / "sitecustomize.py").write_text(BLOCKING)
    path = pictures / "test/warm/test1.png"
    with serving(served, tmp_path, PYTHONPATH=str(tmp_path), TOOLKIT_WORKERS="1") as service:
        url = service[1]
        verified = run("verify", "own", "--models", exported.folder, "--url", url)
        assert verified["passed"] and verified["legs"]["service"]["passed"]
        answer = httpx.post(f"{url}/predict", content=path.read_bytes(), headers=RAW).json()
        explained = httpx.post(f"{url}/explain", content=path.read_bytes(), headers=RAW).json()
        known = httpx.get(f"{url}/v2/models/own").json()
        document = httpx.get(f"{url}/docs.json").json()
    assert answer["label"] == "warm" and "expected_grade" not in answer
    xray = read_xray(path, 96, 3)
    dark = Image.open(io.BytesIO(base64.b64decode(explained["views"]["dark"])))
    np.testing.assert_array_equal(np.asarray(dark), 255 - xray[..., 0])
    assert "edge_map" not in explained and explained["heat"]
    assert known["inputs"] == [{"name": "xray", "datatype": "UINT8", "shape": [-1, 96, 96, 3]}]
    shapes = {each["name"]: each["shape"] for each in known["outputs"]}
    assert shapes.pop("dark") == [-1, 96, 96] and shapes["logits"] == [-1, 2]
    schemas = document["components"]["schemas"]
    assert "expected_grade" not in schemas["Prediction"]["properties"]
    assert schemas["Explanation"]["properties"]["views"]["required"] == ["dark"]


RAW = {"content-type": "application/octet-stream"}


@pytest.mark.full
def test_a_package_serves_it_where_neither_pytorch_nor_the_definition_can_be_imported(
    exported, pictures, tmp_path, serving, monkeypatch
):
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "home"))
    packaged = run("package", "own", "--models", exported.folder)
    held = Path(packaged["path"])
    assert packaged["labels"]["onnx_sha256"] == sha256(exported.path("pipeline"))
    assert not [*held.rglob("*.network.py"), *held.rglob("*.pt")]
    (tmp_path / "blocked").mkdir()
    (tmp_path / "blocked/sitecustomize.py").write_text(BLOCKING)
    source = held / "src"
    environment = {
        "PYTHONPATH": os.pathsep.join(map(str, (source, tmp_path / "blocked"))),
        "TOOLKIT_MODELS": None,
        "TOOLKIT_MODEL": None,
        "TOOLKIT_WORKERS": "1",
        "command": (Path(sys.executable).with_name("bentoml"), "serve", str(held)),
    }
    path = pictures / "test/warm/test1.png"
    with serving(exported, tmp_path / "home", **environment) as (_, url, _):
        found = httpx.get(f"{url}/info").json()
        answer = httpx.post(f"{url}/predict", content=path.read_bytes(), headers=RAW).json()
    assert found["model"] == "own" and found["classes"] == ["cool", "warm"]
    expected = run("predict", "own", path, "--models", exported.folder)["results"][0]
    assert answer["label"] == "warm"
    assert answer["probabilities"] == pytest.approx(expected["probabilities"], abs=1e-6)


@pytest.mark.full
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_lower_precisions_pass_their_gate(exported, pictures, precision):
    words = ("--models", exported.folder, "--data", pictures, "--precision", precision)
    assert run("export", "onnx", "own", *words)["passed"]


@pytest.mark.full
@pytest.mark.parametrize("format_name", ["torchscript", "pt2"])
def test_pytorchs_own_formats_are_equal_too(trained, format_name):
    assert run("export", format_name, "own", "--models", trained.folder)["passed"]


@pytest.mark.full
def test_evaluation_and_many_files_go_by_the_models_own_classes_and_size(
    exported, pictures, table, tmp_path
):
    words = ("--data", pictures, "--models", exported.folder)
    by_torch = run("evaluate", "own", *words)
    by_table = run("evaluate", "own", *words, "--labels", table)
    assert by_table["confusion_matrix"] == by_torch["confusion_matrix"]
    by_onnx = run("evaluate", exported.path("pipeline"), *words)
    assert by_torch["confusion_matrix"] == by_onnx["confusion_matrix"]
    assert by_torch["quadratic_weighted_kappa"] is None, "classes are in no order"
    out = tmp_path / "rows.parquet"
    told = run(
        "predict", "own", pictures / "test", "--out", out, "--models", exported.folder,
        "--workers", 1,
    )  # fmt: skip
    assert sum(told["classes"].values()) == 8 and told["errors"] == {}
    assert "expected_grade" not in pyarrow.parquet.read_schema(out).names


@pytest.mark.full
def test_an_explanation_is_drawn_of_the_picture_and_its_view(exported, pictures, tmp_path):
    path, out = pictures / "test/cool/test0.png", tmp_path / "heat.png"
    told = run("explain", "own", path, "--out", out, "--models", exported.folder)
    assert told["strongest_nats"].keys() == {"image", "dark"}
    with Image.open(out) as picture:
        assert picture.width > 2 * 448


@pytest.mark.full
def test_a_changed_definition_is_refused_by_name_until_it_is_meant(exported, tmp_path):
    files = ModelFiles(shutil.copytree(exported.folder, tmp_path / "models"), "own")
    kept = files.path("definition")
    kept.write_text(kept.read_text() + "# as it was, but for this\n")
    words = ("own", "--models", files.folder)
    for command in (("verify",), ("export", "onnx"), ("benchmark", "--rounds", 1)):
        assert f"{kept} was changed since" in refused(*command, *words)
    before = manifest.load(files.manifest).network.definition
    run("export", "onnx", *words, "--network", kept)
    after = manifest.load(files.manifest).network.definition
    assert after.sha256 != before.sha256
    assert run("verify", *words)["passed"]
    open_model(files.folder, "own")


@pytest.mark.full
def test_trials_search_the_definitions_own_space_and_the_best_is_trained_with(pictures, tmp_path):
    words = ("--network", DEFINITION, "--data", pictures, "--logs", tmp_path / "logs")
    study = run("tune", *words, "--trials", 2, "--max-epochs", 2)
    width = study["best"][0]["width"]
    assert study["finished"] == 2 and width in (4, 8)
    named = ("--models", tmp_path / "models", "--name", "tuned", "--from-study", "own")
    run("train", *words, *named, "--epochs", 1)
    record = manifest.load(tmp_path / "models/tuned.json")
    assert record.network.definition.config == {"width": width}
    assert record.tuning.parameters == {"width": width}


@pytest.mark.parametrize(
    ("saved", "said"),
    [
        ({"state_dict": "module.", "epoch": 3}, "under 'state_dict', without 'module.' in"),
        ({"model": "_orig_mod."}, "under 'model', without '_orig_mod.' in their names"),
        ({"model": "net.", "dtype": "half"}, "without 'net.' in their names, as float32, from flo"),
        ({"ema": "", "dtype": "double"}, "under 'ema', as float32, from float64"),
    ],
)
def test_weights_of_an_own_network_are_read_as_people_save_them(trained, tmp_path, saved, said):
    import torch

    weights = torch.load(trained.checkpoint, weights_only=True)
    (holder, prefix), *more = saved.items()
    kind = dict(more).get("dtype", "float")
    held = {prefix + name: getattr(value, kind)() for name, value in weights.items()}
    torch.save({holder: held, **dict(more)}, tmp_path / "mine.pt")
    words = ("--network", trained.path("definition"), "--classes", "cool,warm")
    found = run("import", tmp_path / "mine.pt", "--name", "there", "--models", tmp_path, *words)
    assert said in found["notices"][0]
    there = torch.load(tmp_path / "there.pt", weights_only=True)
    for name, value in weights.items():
        assert torch.equal(there[name], getattr(value, kind)().float())


def test_parameters_are_those_that_are_trained_and_not_what_batch_norm_gathers(trained, tmp_path):
    import torch

    weights = torch.load(trained.checkpoint, weights_only=True)
    counted = sum(
        each.numel()
        for name, each in weights.items()
        if "running_" not in name and "num_batches" not in name
    )
    words = ("--network", trained.path("definition"), "--classes", "cool,warm")
    run("import", trained.checkpoint, "--name", "there", "--models", tmp_path, *words)
    for path in (trained.manifest, tmp_path / "there.json"):
        assert manifest.load(path).network.parameters == counted


def test_weights_trained_elsewhere_become_a_model_with_a_definition(trained, tmp_path):
    words = ("--network", trained.path("definition"), "--classes", "cool,warm")
    run("import", trained.checkpoint, "--name", "there", "--models", tmp_path, *words)
    there = manifest.load(tmp_path / "there.json")
    assert (
        there.network.definition.sha256 == manifest.load(trained.manifest).network.definition.sha256
    )
    wide = ("--name", "wide", "--models", tmp_path, "--config", "width=4")
    assert "does not fit" in refused("import", trained.checkpoint, *wide, *words)
