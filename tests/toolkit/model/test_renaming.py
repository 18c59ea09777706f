"""Names that a new model can have, `toolkit rename` and `toolkit list`."""

import json
import shutil
import signal
from functools import partial
from pathlib import Path

import pytest
from command_line import here

from toolkit.errors import ManifestError, UsageError
from toolkit.model import manifest, renaming
from toolkit.model.artifacts import check_equivalence, load_golden
from toolkit.model.files import ModelFiles, checked_new_name, names_in
from toolkit.model.renaming import rename
from toolkit.train.log_folder import log_folder, sole_training

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def models(tmp_path):
    """A folder with the shipped model, under a name that no image can have."""
    folder = tmp_path / "models"
    folder.mkdir()
    for path in (ROOT / "saved_models").glob("model_saved.*"):
        shutil.copy(path, folder / path.name.replace("model_saved", "Knee"))
    record = manifest.load(folder / "Knee.json")
    from toolkit.model.renaming import renamed

    manifest.save(renamed(record, ModelFiles(folder, "Knee")), folder / "Knee.json")
    return folder


@pytest.fixture
def toolkit(tmp_path):
    """Return a function that runs a line of `toolkit` in the folder of the test."""
    return partial(here, cwd=tmp_path)


@pytest.mark.parametrize(
    "name", ["Knee_V2", "-x", "_x", "x_", "x-", "a___b", "a.-b", "KNEE", "k" * 51]
)
def test_a_name_that_no_image_can_have_is_refused_when_it_is_given(name, toolkit, tmp_path):
    with pytest.raises(UsageError, match="small letters and digits"):
        checked_new_name(name)
    shutil.copy(ROOT / "saved_models" / "model_saved.pt", tmp_path / "a.pt")
    for line in (("train",), ("import", tmp_path / "a.pt")):
        code, out, err = toolkit(*line, f"--name={name}", "--models", tmp_path / "new")
        assert code == 2 and not out and "cannot name a new model" in err, err
        assert "small letters and digits" in err
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


@pytest.mark.parametrize("line", ["train --name", "import a.pt --name", "rename model_saved"])
def test_a_name_under_which_a_former_model_is_kept_is_not_given(toolkit, tmp_path, line):
    for kind in ("json", "pt"):
        shutil.copy(ROOT / "saved_models" / f"model_saved.{kind}", tmp_path)
    shutil.copy(tmp_path / "model_saved.pt", tmp_path / "a.pt")
    code, out, err = toolkit(*line.split(), "model_saved.previous", "--models", tmp_path)
    assert code == 2 and not out and "under that name the former model_saved is kept" in err
    assert not [*tmp_path.glob("*.previous.*")]


def test_a_file_whose_name_no_model_can_have_is_imported_under_another(toolkit, tmp_path):
    path = shutil.copy(ROOT / "saved_models" / "model_saved.pt", tmp_path / "Final V2.pt")
    code, _, err = toolkit("import", path, "--models", tmp_path / "new")
    assert code == 2 and "--name gives it" in err


def test_a_renamed_model_has_its_proof_its_former_files_and_its_logs(models, toolkit, tmp_path):
    for path in list(models.glob("Knee.*")):
        shutil.copy(path, models / path.name.replace("Knee", "Knee.previous"))
    (models / "Knee.resume.pt").write_bytes(b"state")
    before = {path.name.removeprefix("Knee"): path.read_bytes() for path in models.iterdir()}
    (tmp_path / "logs/hyperparameters_tunned/Knee").mkdir(parents=True)
    code, out, err = toolkit("rename", "Knee", "knee-2", "--models", models, "--json")
    assert (code, err) == (0, ""), err
    assert json.loads(out)["name"] == "knee-2"
    after = {path.name.removeprefix("knee-2"): path.read_bytes() for path in models.iterdir()}
    assert after.keys() == before.keys()
    assert {name for name in after if after[name] != before[name]} == {".json", ".previous.json"}
    files = ModelFiles(models, "knee-2")
    record = manifest.load(files.manifest)
    check_equivalence(files, record)
    load_golden(files, record)
    assert manifest.load(files.previous.manifest).name == "knee-2.previous"
    assert (tmp_path / "logs/hyperparameters_tunned/knee-2").is_dir()


@pytest.mark.parametrize("taken", ["json", "pt", "pipeline.onnx"])
def test_another_models_files_are_never_replaced(models, taken):
    (models / f"other.{taken}").write_bytes(b"theirs")
    before = {path: path.read_bytes() for path in models.iterdir()}
    with pytest.raises(UsageError, match="is there already"):
        rename(ModelFiles(models, "Knee"), "other")
    assert {path: path.read_bytes() for path in models.iterdir()} == before


@pytest.mark.parametrize("name", ["Other", "a/b", "knee.json", ""])
def test_a_model_is_not_renamed_to_what_cannot_be_packaged(models, name):
    with pytest.raises(UsageError, match="cannot name"):
        rename(ModelFiles(models, "Knee"), name)


def test_the_names_of_the_logs_are_free_too(models, toolkit, tmp_path):
    for name in ("Knee", "knee"):
        (tmp_path / "logs/hyperparameters_tunned" / name).mkdir(parents=True)
    code, _, err = toolkit("rename", "Knee", "knee", "--models", models)
    assert code == 2 and "are there already" in err and names_in(models) == ["Knee"]


def test_a_model_in_training_is_not_renamed(models, toolkit, tmp_path):
    log = log_folder(tmp_path / "logs", "Knee")
    with sole_training(ModelFiles(models, "Knee"), log):
        code, _, err = toolkit("rename", "Knee", "knee", "--models", models)
    assert code == 2 and "the model Knee is in use by process" in err
    assert names_in(models) == ["Knee"]
    assert toolkit("rename", "Knee", "knee", "--models", models).code == 0
    assert not (tmp_path / "logs").exists()


def test_ctrl_c_leaves_no_logs_under_the_former_name(models, toolkit, tmp_path, monkeypatch):
    logs = tmp_path / "logs/hyperparameters_tunned"
    (logs / "Knee").mkdir(parents=True)
    moved = renaming.rename

    def interrupted(*names):
        signal.raise_signal(signal.SIGINT)
        return moved(*names)

    monkeypatch.setattr(renaming, "rename", interrupted)
    assert toolkit("rename", "Knee", "knee", "--models", models).code == 130
    assert names_in(models) == ["knee"] and [each.name for each in logs.iterdir()] == ["knee"]


def test_what_was_stopped_half_way_is_finished_by_the_next_call(models):
    (models / "Knee.pt").rename(models / "knee.pt")
    files = rename(ModelFiles(models, "Knee"), "knee")
    check_equivalence(files, manifest.load(files.manifest))
    assert not list(models.glob("Knee*"))


def test_files_that_cannot_all_be_moved_stay(models, monkeypatch):
    before = {path: path.read_bytes() for path in models.iterdir()}

    def full(*_):
        raise UsageError("cannot write: No space left on device")

    monkeypatch.setattr(manifest, "save", full)
    with pytest.raises(UsageError, match="cannot rename Knee: cannot write: No space left"):
        rename(ModelFiles(models, "Knee"), "knee")
    assert {path: path.read_bytes() for path in models.iterdir()} == before


def test_a_model_that_is_not_there_is_told_with_those_that_are(models):
    with pytest.raises(ManifestError, match=r"are: Knee; .*TOOLKIT_MODELS"):
        rename(ModelFiles(models, "knee"), "knee-2")


def test_models_are_listed_with_what_is_proven_of_them(models, toolkit):
    code, out, _ = toolkit("list", "--models", models, "--json")
    (model,) = json.loads(out)["models"]
    assert code == 0 and model["name"] == "Knee" and model["proven"] is True
    assert model["precisions"] == ["fp32", "fp16", "int8"]
    assert model["trained"] == {"preset": "default", "epochs": 70}
    assert model["bytes"] == sum(path.stat().st_size for path in models.iterdir())

    with (models / "Knee.pipeline.onnx").open("ab") as stream:
        stream.write(b"more")
    (models / "broken.json").write_text("{}")
    (models / "no model.json").write_text("{}")
    code, out, _ = toolkit("list", "--models", models, "--json")
    known, broken = json.loads(out)["models"]
    assert code == 0 and known["proven"] is False and known["precisions"] == ["fp16", "int8"]
    assert broken["name"] == "broken" and "schema version" in broken["error"]
    code, out, _ = toolkit("list", "--models", models)
    assert code == 0 and "Knee    default, 70 epochs" in out and "cannot be read" in out


def test_a_folder_without_models_is_said_to_have_none(toolkit, tmp_path):
    (tmp_path / "empty").mkdir()
    assert toolkit("list", "--models", tmp_path / "empty")[:2] == (
        0,
        f"no models in {tmp_path / 'empty'}\n",
    )
    assert toolkit("list", "--models", tmp_path / "nowhere")[0] == 2
