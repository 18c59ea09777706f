"""What the commands say to whoever gives something else than they take, or should know more."""

import json
import re
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from command_line import here

from toolkit.model import manifest
from toolkit.model.card import figures

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def toolkit(tmp_path):
    """Return a function that runs a line of `toolkit` in the folder of the test."""
    return partial(here, cwd=tmp_path)


@pytest.fixture
def models(tmp_path):
    folder = tmp_path / "models"
    folder.mkdir()
    for kind in ("json", "pipeline.onnx"):
        shutil.copy(ROOT / "saved_models" / f"model_saved.{kind}", folder)
    return folder


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("predict localhost:3000 a.png", "a service is given as http://localhost:3000"),
        ("predict 10.0.0.1:80/x a.png", "a service is given as http://10.0.0.1:80/x"),
        ("predict http://localhost:3000 x --out r.parquet", "is a service: give NAME"),
        ("predict models/model_saved.json a.png", "give model_saved --models models"),
        ("predict models/model_saved.pt a.png", "give model_saved --models models"),
        ("predict none a.png --models models", "models in models are: model_saved; --models"),
        ("predict none a.png --models nowhere", "models in nowhere are: none; --models"),
        (
            "predict model_saved models --out rows.xlsx",
            "end it in .parquet, .csv, .jsonl, or give -",
        ),
        ("predict model_saved models --out rows", "end it in .parquet, .csv, .jsonl, or give -"),
        (
            "predict model_saved models --out typo/r.csv",
            "there is no folder typo; make it, or corr",
        ),
        ("predict model_saved models --out - --json", "give one of the two"),
        ("explain model_saved a.png --models models --out typo/a.png", "there is no folder typo;"),
        ("verify model_saved --models models --out typo/deep", "there is no folder typo;"),
        ("export onnx model_saved --models models --out typo/deep", "there is no folder typo;"),
        ("package model_saved --models models --out typo/deep", "there is no folder typo;"),
        ("train --models typo/deep", "there is no folder typo; make it, or correct --models"),
        ("train --logs typo/deep", "there is no folder typo; make it, or correct --logs"),
        ("train --cache typo/deep", "there is no folder typo; make it, or correct --cache"),
        ("tune --logs typo/deep", "there is no folder typo; make it, or correct --logs"),
        ("tune --storage typo/deep", "there is no folder typo; make it, or correct --storage"),
        ("import a.pt --models typo/deep", "there is no folder typo; make it, or correct --models"),
        ("list --models typo/deep", "there is no folder typo; make it, or correct --models"),
        ("data generate typo/deep", "there is no folder typo; make it, or correct the path"),
        ("init typo/net.py", "there is no folder typo; make it, or correct the path"),
        ("predict [::1]:3000 a.png", "a service is given as http://[::1]:3000"),
        ("predict http:/localhost:3000 a.png", "a service is given as http://localhost:3000"),
        ("predict models/model_saved a.png", "is given as model_saved --models models"),
        ("card models/model_saved.json", "is given as model_saved --models models"),
        ("explain ./model_saved a.png", "is given as model_saved --models ."),
        ("predict models a.png", "models is no model in saved_models: give a model's name before"),
        ("predict model_saved models --models models", "is a folder: give --out too"),
        ("train --name final --models models --logs logs", "the log of model_saved"),
    ],
)
def test_what_is_meant_by_something_else_is_said(toolkit, models, line, said):
    code, out, err = toolkit(*line.split())
    assert code == 2 and said in err and models.is_dir()
    assert [path.name for path in models.parent.iterdir()] == ["models"]
    assert not out or "--json" in line


def test_an_xray_is_not_taken_for_a_model(toolkit, models, tmp_path):
    shutil.copy(ROOT / "saved_models" / "model_saved.pt", tmp_path / "a.png")
    code, out, err = toolkit("predict", "a.png", "a.png", "--models", models)
    assert code == 2 and not out and "give a model's name before X-rays" in err
    (tmp_path / "model_saved").mkdir()
    _, out, _ = toolkit("predict", "model_saved", "a.png", "--models", models)
    assert out.startswith("a.png  refused: not a PNG")


def test_a_refused_file_has_its_code_for_programs(toolkit, models, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no picture")
    code, out, _ = toolkit("predict", "model_saved", "bad.png", "--models", models, "--json")
    (result,) = json.loads(out)["results"]
    assert code == 2 and result["code"] == "not_an_image"
    _, out, _ = toolkit("predict", "model_saved", "bad.png", "--models", models)
    assert out.startswith("bad.png  refused: not a PNG") and out.count("bad.png") == 1


def test_doctor_counts_in_words_and_advises_what_can_be_done(toolkit, models, tmp_path):
    _, out, _ = toolkit("doctor", "none", "--models", models)
    assert "do: name one of model_saved, or another folder with --models or TOOLKIT_MODELS" in out
    (tmp_path / "empty").mkdir()
    _, out, _ = toolkit("doctor", "none", "--models", tmp_path / "empty")
    assert re.search(r"do: toolkit train --models \S+empty, or another folder", out)
    assert not re.search(r"\b1 (errors|warnings)\b", out)


def test_doctor_looks_at_the_model_that_is_served_where_none_is_named(toolkit, models):
    for path in models.iterdir():
        path.rename(path.with_name(path.name.replace("model_saved", "knee")))
    _, out, _ = toolkit("doctor", "--models", models)
    assert re.search(r"describes 'model_saved', not 'knee'", out)


def test_help_names_the_place_of_the_journal(toolkit):
    _, out, _ = toolkit("tune", "report", "--help")
    assert "hyperparameter_tunning_ratio_abs/study.journal" in re.sub(r"[\s│]", "", out)


def test_labels_are_text_in_a_card_whatever_they_hold():
    record = manifest.load(ROOT / "saved_models" / "model_saved.json")
    names = ("<script>alert(1)</script>", "a|b", "[x](http://y)", "`c`\n# d")
    record = replace(record, labels=replace(record.labels, classes=names))
    text = figures(record)
    assert "<script" not in text and "&lt;script&gt;" in text
    assert "a\\|b" in text and "\\[x\\](http" in text and "\n#" not in text
    table = [line for line in text.splitlines() if line.startswith("| ")]
    assert all(line.endswith(" |") for line in table)


def test_a_card_of_figures_that_are_no_numbers_is_one_line(toolkit, models):
    path = models / "model_saved.json"
    content = json.loads(path.read_text())
    content["training"]["metrics"]["val"]["accuracy"] = "<b>"
    path.write_text(json.dumps(content))
    code, _, err = toolkit("card", "--models", models)
    assert code == 2 and "lacks figures of a card" in err
