"""Two classes, from drawn X-rays to a served decision, which PyTorch's probabilities give too."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from command_line import ok, refused, run

from toolkit import Client
from toolkit.errors import ModelRefusedError
from toolkit.files import write_bytes
from toolkit.model import manifest
from toolkit.model.artifacts import check_equivalence
from toolkit.model.card import figures
from toolkit.model.files import ModelFiles
from toolkit.train.calibration import softmax
from toolkit.train.checkpoint import load_trained
from toolkit.train.evaluation import predict
from toolkit.xray.folders import patient_part
from toolkit.xray.pictures import encode
from toolkit.xray.reading import read_xray
from toolkit.xray.synthetic import generate

CLASSES = ("sound", "worn")
LATER = ("export", "equivalence", "golden")


@pytest.fixture(scope="module")
def xrays(tmp_path_factory):
    """Drawn X-rays of two grades, one in seven under the other: nothing tells them apart fully."""
    folder = tmp_path_factory.mktemp("xrays")
    for number, xray in enumerate(generate(200, seed=5, grades=(2, 4))):
        worn = (xray.grade == 4) != (number % 7 == 0)
        place = folder / patient_part(xray.name[:-1]) / CLASSES[worn]
        write_bytes(place / f"{xray.name}.png", encode(xray.pixels))
    return folder


@pytest.fixture(scope="module")
def training(xrays, tmp_path_factory):
    """What is trained, and the words for it: a network of one's own, briefly."""
    folder = tmp_path_factory.mktemp("model")
    run("init", folder / "two.py")
    words = ("--network", folder / "two.py", "--data", xrays, "--epochs", 3, "--name", "two")
    return (*words, "--models", folder / "models", "--logs", folder / "logs")


@pytest.fixture(scope="module")
def trained(training):
    """The files of a model with an operating point."""
    told = run("train", *training, "--operating-point", "sensitivity=0.9")
    files = ModelFiles(training[training.index("--models") + 1], "two")
    kept = json.loads(files.manifest.read_bytes())["operating_point"]
    assert told["operating_point"] == kept and kept["sensitivity"] >= 0.9
    return files


@pytest.fixture(scope="module")
def record(trained):
    return manifest.load(trained.manifest)


@pytest.fixture(scope="module")
def export(trained, tmp_path_factory):
    """That model with its ONNX files, in a folder of its own, and what its export said."""
    folder = shutil.copytree(trained.folder, tmp_path_factory.mktemp("exported") / "models")
    return ModelFiles(folder, "two"), *ok("export", "onnx", "two", "--models", folder)


@pytest.fixture(scope="module")
def exported(export):
    """The files of that model."""
    return export[0]


@pytest.mark.full
def test_export_says_what_it_wrote_and_how_equal_it_is(export):
    files, content, err = export
    assert content["passed"] is True and "exporting two" in err
    assert set(map(Path, content["artifacts"].values())) == {
        files.path(kind) for kind in ("network", "explainer", "pipeline")
    }
    for leg in content["legs"].values():
        assert leg["argmax_agreement"] == 1.0 and leg["samples"] >= 64
        assert all(0 <= each["max_abs"] < 1e-3 for each in leg["outputs"].values())


@pytest.fixture(scope="module")
def expected(exported, record, xrays):
    """{file of val: the decision by PyTorch's calibrated probabilities}."""
    paths = sorted((xrays / "val").rglob("*.png"))
    pixels = torch.from_numpy(np.stack([read_xray(path, 64) for path in paths]))
    logits = predict(load_trained(exported, record), pixels).numpy()
    worn = softmax(logits, record.temperature)[:, 1] >= record.operating_point.threshold
    return {path: CLASSES[each] for path, each in zip(paths, worn.astype(int), strict=True)}


@pytest.mark.full
def test_the_served_decision_is_that_of_pytorchs_probabilities_and_reaches_what_is_said(
    exported, record, expected, tmp_path, serving
):
    with serving(exported, tmp_path, TOOLKIT_WORKERS="1") as service, Client(service[1]) as client:
        answers = dict(zip(expected, client.predict_many(expected), strict=True))
        known, document = client.info(), httpx.get(f"{service[1]}/docs.json").json()
    assert {path: each.decision for path, each in answers.items()} == expected
    assert any(each.decision != each.label for each in answers.values())
    point, found = record.operating_point, {}
    for label, wanted in zip(CLASSES, ("specificity", "sensitivity"), strict=True):
        of_class = [each.decision for path, each in answers.items() if path.parent.name == label]
        found[wanted] = of_class.count(label) / len(of_class)
        assert found[wanted] == getattr(point, wanted)
    assert known["operating_point"] == {
        "positive": "worn", "threshold": point.threshold, **found,
    }  # fmt: skip
    schemas = document["components"]["schemas"]
    for name in ("Answer", "Prediction"):
        assert schemas[name]["properties"]["decision"]["enum"] == list(CLASSES)
        assert "decision" in schemas[name]["required"]
    assert "operating_point" in schemas["Info"]["required"] and "OperatingPoint" in schemas


@pytest.mark.full
def test_rows_of_many_files_have_the_decision(exported, xrays, expected, tmp_path):
    import pyarrow.csv

    (xrays / "val" / "none.png").write_bytes(b"no image")
    out = tmp_path / "rows.csv"
    words = ("--models", exported.folder, "--workers", 1)
    run("predict", "two", xrays / "val", "--out", out, *words)
    (xrays / "val" / "none.png").unlink()
    rows = pyarrow.csv.read_csv(out).to_pylist()
    found = {each["path"]: each["decision"] for each in rows}
    assert found.pop("none.png") in (None, "")
    assert found == {
        path.relative_to(xrays / "val").as_posix(): each for path, each in expected.items()
    }


@pytest.fixture(params=["trained", pytest.param("exported", marks=pytest.mark.full)])
def files(request):
    """The model's files as training left them, and with what was exported."""
    return request.getfixturevalue(request.param)


def test_evaluation_on_val_finds_what_the_operating_point_was_chosen_by(files, record, xrays):
    exported = files.path("pipeline")
    model = exported if exported.exists() else files.checkpoint
    told = run("evaluate", model, "--data", xrays, "--part", "val")
    point, found = record.operating_point, told["operating_point"]
    assert found["positive"] == "worn" and told["positive_class"] == 1
    for name in ("sensitivity", "specificity"):
        assert found[name] == getattr(point, name)
        low, high = found["intervals"][name]
        assert low <= found[name] <= high
        assert told[name] == record.training.metrics["val"][name]
    # The more probable class is another one now and then.
    assert told["confusion_matrix"] != found["confusion_matrix"]
    assert told["auroc"] == pytest.approx(record.training.metrics["val"]["auroc"], abs=0.01)


def test_the_card_says_where_it_lies_and_what_it_reached(record):
    card, point = figures(record), record.operating_point
    assert f"| decides on worn from a probability of | {point.threshold:.3f} | |" in card
    assert f"{point.positives} X-rays | {point.sensitivity:.3f} | |" in card
    assert "| sensitivity for worn |" in card and "| AUROC | 95 % interval |" in card


@pytest.mark.full
def test_one_flipped_bit_in_the_operating_point_is_refused(exported, unseen_flips, tmp_path):
    copied = ModelFiles(shutil.copytree(exported.folder, tmp_path / "models"), "two")
    kept = copied.manifest.read_bytes()
    start = kept.index(b'"operating_point"')
    end = kept.index(b"}", start)
    assert unseen_flips(copied, start, end) < end - start


@pytest.mark.full
def test_a_manifest_without_a_verdict_over_it_is_given_no_operating_point(exported, tmp_path):
    copied = ModelFiles(shutil.copytree(exported.folder, tmp_path / "models"), "two")
    content = json.loads(copied.manifest.read_bytes())
    # As former versions wrote it.
    content["equivalence"]["answers_sha256"] = ""
    copied.manifest.write_text(json.dumps(content))
    with pytest.raises(ModelRefusedError, match="not as it was proven"):
        check_equivalence(copied, manifest.load(copied.manifest))


def test_another_point_is_chosen_without_training_and_served_once_it_is_exported(
    files, record, xrays, tmp_path
):
    files = ModelFiles(shutil.copytree(files.folder, tmp_path / "models"), "two")
    words = ("--data", xrays, "--models", files.folder)
    told = run("operating-point", "two", "specificity=0.8", *words, "--positive", "sound")
    after = manifest.load(files.manifest)
    assert told["operating_point"]["positive"] == after.operating_point.positive == "sound"
    assert after.operating_point.specificity >= 0.8
    none = dict.fromkeys(LATER)
    assert after == replace(record, operating_point=after.operating_point, **none)
    path = next((xrays / "test").rglob("*.png"))
    asked = ("predict", "two", path, "--models", files.folder)
    assert "toolkit export onnx two" in refused(*asked)


def test_a_target_beyond_val_is_refused_and_the_model_is_kept(training, xrays, tmp_path):
    folder = shutil.copytree(xrays, tmp_path / "xrays")
    picture = next((folder / "val").rglob("*.png")).read_bytes()
    shutil.rmtree(folder / "val")
    for name in ("sound/9000901L", "worn/9000902L"):
        # One picture in both classes: no threshold comes between.
        write_bytes(folder / f"val/{name}.png", picture)
    words = (*training, "--data", folder, "--models", tmp_path, "--epochs", 1, "--allow-conflicts")
    error = refused("train", *words, "--operating-point", "specificity=0.1")
    assert "is beyond the part 'val'" in error and "toolkit operating-point two" in error
    assert manifest.load(tmp_path / "two.json").operating_point is None


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("--operating-point", "sensitivity=95"), "is no operating point"),
        (("--operating-point", "sensitivity=0.9", "--positive", "torn"), "no class is called"),
        (("--positive", "worn"), "give --operating-point too"),
    ],
)
def test_what_cannot_be_asked_for_is_refused_before_anything_is_trained(
    training, tmp_path, words, error
):
    words = (*training, "--models", tmp_path / "none", *words)
    assert error in refused("train", *words)
    assert not (tmp_path / "none").exists()


def test_a_part_val_of_one_class_is_refused_before_anything_is_trained(training, xrays, tmp_path):
    one = shutil.copytree(xrays, tmp_path / "xrays")
    shutil.rmtree(one / "val" / "worn")
    words = (*training, "--data", one, "--models", tmp_path / "none")
    error = refused("train", *words, "--operating-point", "sensitivity=0.9")
    assert "'val': it has no X-ray of 'worn'" in error
    assert not list((tmp_path / "none").glob("*.pt"))
