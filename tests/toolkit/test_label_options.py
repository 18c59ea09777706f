"""What `--labels` comes to at the commands that take it."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from command_line import refused, run

from toolkit.model import artifacts, manifest

SHIPPED = Path(__file__).resolve().parents[2] / "saved_models/model_saved.json"
TINY = ("--layer-size", 2, "--epochs", 1, "--batch-size", 64)
ORDERED = """
ordinal = true
scale = "severity"
table = "knees.csv"

[[classes]]
name = "early"
folders = ["0", "2"]
grade = 1

[[classes]]
name = "late"
folders = ["3", "4"]
grade = 2.5
"""


@pytest.fixture
def knees(png_folder, tmp_path):
    """X-rays in one folder; beside it what says what they are: a table, and classes in an order."""
    rows = [
        (f"{patient}{side}", grade, patient, part)
        for part, patients in (("train", range(8)), ("val", range(8, 12)), ("test", range(12, 14)))
        for patient in patients
        for side, grade in zip("LR", ((0, 3), (2, 4))[patient % 2], strict=True)
    ]
    folder = png_folder(*(f"all/{name}" for name, *_ in rows))
    with (tmp_path / "knees.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("file", "label", "patient", "part"))
        writer.writerows((f"all\\{name}.png", *rest) for name, *rest in rows)
    (tmp_path / "ordered.toml").write_text(ORDERED)
    return folder


def test_inspect_counts_folders_of_any_names(png_folder):
    folder = png_folder("train/benign/1", "train/malignant/2", "val/benign/3", "train/benign/4")
    shutil.copy(folder / "train/benign/1.png", folder / "train/malignant/5.png")
    found = run("data", "inspect", folder)
    assert found["classes"] == ["benign", "malignant"]
    assert found["counts"] == {"train": [2, 2], "val": [1, 0]}
    assert found["conflicts"] == [
        [f"{folder}/train/benign/1.png", f"{folder}/train/malignant/5.png"]
    ]


def test_inspect_counts_the_classes_of_either_file_and_what_a_map_drops(knees, png_folder):
    table, ordered = knees.parent / "knees.csv", knees.parent / "ordered.toml"
    found = run("data", "inspect", knees, "--labels", table)
    assert found["classes"] == ["0", "2", "3", "4"]
    assert found["counts"]["train"] == [4, 4, 4, 4] and found["counts"]["test"] == [1, 1, 1, 1]
    assert found["patients"] == 14 and found["crossing_patients"] == found["left_out"] == []
    found = run("data", "inspect", knees, "--labels", ordered)
    assert found["classes"] == ["early", "late"] and found["counts"]["val"] == [4, 4]
    graded = png_folder("0/1L", "1/2L", "KL-4/3L", under="graded")
    found = run("data", "inspect", graded, "--labels", "study")
    assert found["counts"] == {"all": [1, 0, 0, 1]} and found["dropped"] == 1


def test_a_patient_in_two_parts_of_a_table_is_told(knees):
    table = knees.parent / "knees.csv"
    table.write_text(table.read_text().replace("0R.png,3,0,train", "0R.png,3,0,val"))
    assert run("data", "inspect", knees, "--labels", table)["crossing_patients"] == ["0"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("data inspect {data} --labels two", "'two' is not one of study, five, merge01, folders, "),
        ("data inspect {data} --labels no.toml", "cannot read --labels no.toml: No such file"),
        ("data inspect {data} --labels no.csv", "cannot read --labels no.csv: No such file"),
        ("data inspect {data} --labels {csv} --patients ^(.)", "leave out --patients and --groups"),
        ("train --labels {csv}", "is for X-rays of your own: give --data"),
        ("train --labels {toml}", "is for X-rays of your own: give --data"),
        ("train --labels folders", "is for X-rays of your own: give --data"),
        ("import a.pt --labels {csv}", "gives no order of classes: name a map or a FILE.toml"),
        ("import a.pt --labels {toml} --classes a,b", "give one of them"),
        ("import a.pt --network n.py --classes a,b,a", "names a class twice"),
        ("import a.pt --network n.py --classes a,\udcff", r"'\udcff' holds what is no text"),
        ("import a.pt --network n.py --classes a,\x1b[2J", r"'\x1b[2J' holds what is no text"),
        ("import a.pt --network n.py --classes a,,b", "--classes: a label is empty"),
    ],
)
def test_labels_that_cannot_be_meant_are_one_line(knees, line, said):
    names = {
        "data": knees,
        "csv": knees.parent / "knees.csv",
        "toml": knees.parent / "ordered.toml",
    }
    error = refused(*(word.format(**names) for word in line.split()))
    assert said in error


def test_a_folder_whose_name_holds_half_a_character_is_no_class(png_folder):
    folder = png_folder("train/a/1", "train/\udcff/2")
    for words in ((), ("--labels", "folders")):
        error = refused("data", "inspect", folder, *words)
        assert r"the label '\udcff' holds what is no text" in error


def test_a_setting_with_half_a_character_is_refused(png_folder, tmp_path):
    folder = png_folder("a/1", "b/2")
    run("init", tmp_path / "own.py")
    words = ("train", "--network", tmp_path / "own.py", "--data", folder)
    for value in ('names=["\\ud800"]', "names=\udcff"):
        error = refused(*words, "--config", value)
        assert "is no text in UTF-8" in error
    own = tmp_path / "own.py"
    own.write_text(
        own.read_text() + '    def space(self, trial):\n        return {"a": "\\ud800"}\n'
    )
    error = refused("tune", "--network", own, "--data", folder, "--logs", tmp_path)
    assert "gives a text that is none in UTF-8" in error


def test_a_model_keeps_what_its_table_said_and_is_judged_by_it(knees, tmp_path):
    places = ("--models", tmp_path / "models")
    ordered, table = knees.parent / "ordered.toml", knees.parent / "knees.csv"
    words = ("--data", knees, "--labels", ordered)
    run("train", *words, "--name", "own", *TINY, *places, "--logs", tmp_path / "logs")
    record = manifest.load(tmp_path / "models/own.json")
    assert record.labels.classes == ("early", "late") and record.labels.scale == "severity"
    assert record.labels.scale_grades == ((1,), (2.5,)) and record.labels.name == "ordered.toml"
    assert (record.dataset.split, record.dataset.patients) == ("published", 14)
    assert record.dataset.patient_table and record.dataset.counts["test"] == (2, 2)
    assert record.training.metrics["test"]["quadratic_weighted_kappa"] is not None
    found = run("evaluate", "own", *words, *places)
    assert (
        found["n"] == 4
        and found["confusion_matrix"] == (record.training.metrics["test"]["confusion_matrix"])
    )
    error = refused("evaluate", "own", "--data", knees, *places)
    assert "--labels FILE says which are which" in error
    other = tmp_path / "other.toml"
    other.write_text(ORDERED.replace("late", "later"))
    error = refused("evaluate", "own", "--data", knees, "--labels", other, *places)
    assert "the model's classes are early, late, and those of --labels early, later" in error
    # The table alone is enough: which of its labels make a class is in the manifest.
    assert run("evaluate", "own", "--data", knees, "--labels", table, *places) == found


def test_manifests_of_before_mean_what_they_meant(tmp_path):
    text = SHIPPED.read_text()
    record = manifest.load(SHIPPED)
    assert record.labels.graded and record.labels.scale == "Kellgren-Lawrence"
    manifest.save(record, tmp_path / "model_saved.json")
    kept = json.loads((tmp_path / "model_saved.json").read_text())
    assert kept["labels"] == json.loads(text)["labels"]
    folders = json.loads(text)["labels"] | {"name": "folders", "grades": []}
    (tmp_path / "model_saved.json").write_text(json.dumps(json.loads(text) | {"labels": folders}))
    assert not manifest.load(tmp_path / "model_saved.json").labels.graded


def test_what_was_proven_before_is_held_against_what_was_said_then(monkeypatch):
    hashed = []
    known = artifacts.hashlib.sha256
    monkeypatch.setattr(
        artifacts.hashlib, "sha256", lambda text: hashed.append(json.loads(text)) or known(text)
    )
    artifacts.answers_sha256(manifest.load(SHIPPED))
    assert hashed[0]["labels"].keys() == {"name", "classes", "grades"}


def test_what_a_manifest_says_of_labels_comes_back_as_it_was(tmp_path):
    record = manifest.load(SHIPPED)
    for grades, ordinal in ((((1,), (2.5,), (3,), (4,)), True), ((), False)):
        folders = tuple((name, f"{name} 2") for name in record.labels.classes)
        labels = replace(
            record.labels, grades=grades, folders=folders, ordinal=ordinal, scale="BI-RADS"
        )
        manifest.save(replace(record, labels=labels), tmp_path / "own.json")
        assert manifest.load(tmp_path / "own.json").labels == labels


@pytest.mark.parametrize("command", ["export onnx", "verify", "benchmark"])
@pytest.mark.parametrize("option", ["--labels", "--groups"])
def test_what_is_said_of_xrays_is_refused_where_there_are_none(command, option):
    message = refused(*command.split(), "model_saved", "--models", SHIPPED.parent, option, "study")
    assert message.endswith("are of X-rays of your own: give --data")


@pytest.mark.parametrize("option", ["--data", "--labels", "--groups", "--network"])
def test_a_roofline_passes_over_no_option(option):
    words = ("benchmark", "model_saved", "--models", SHIPPED.parent, "--roofline", option, "study")
    assert "leave out --data" in refused(*words)


def test_settings_beside_those_of_a_study_are_refused(png_folder, tmp_path):
    run("init", tmp_path / "net.py")
    data = ("--data", png_folder("train/benign/1", "train/malignant/2"))
    words = ("--network", "net.py", "--config", "width=4", "--from-study", "own")
    assert "both say what the network is made with" in refused("train", *data, *words, cwd=tmp_path)
