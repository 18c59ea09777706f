"""A bento holds what serves one proven model, says where it comes from, and comes out the same."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from command_line import here

from toolkit.errors import ManifestError, ModelRefusedError, PackagingError, UsageError
from toolkit.files import sha256
from toolkit.model import manifest, records
from toolkit.model.files import ModelFiles
from toolkit.package import bento as bentos
from toolkit.package import provenance

ROOT = Path(__file__).resolve().parents[3]
SHIPPED = ModelFiles(ROOT / "saved_models", "model_saved")
LOCK = ROOT / "bento/image/requirements-gpu.txt"


def files_of(bento):
    return {
        path.relative_to(bento.path).as_posix(): sha256(path)
        for path in bento.path.rglob("*")
        if path.is_file() and path.name != "bento.yaml"
    }


@pytest.mark.full
def test_the_same_inputs_give_the_same_bento_but_for_its_creation_time(twice):
    one, two = twice
    assert one.tag == two.tag
    assert one.path != two.path
    assert files_of(one) == files_of(two)
    said = [yaml.safe_load((each.path / "bento.yaml").read_text()) for each in twice]
    # This machine's number of cores would be another one's difference.
    assert said[0]["services"][0]["config"]["workers"] == 1
    times = [each.pop("creation_time") for each in said]
    assert said[0] == said[1]
    assert times[0] != times[1]


def test_a_bento_holds_the_model_and_what_serves_it_and_nothing_else(bento):
    held = {name.removeprefix("src/") for name in files_of(bento) if name.startswith("src/")}
    assert {each for each in held if each.startswith("saved_models/")} == {
        f"saved_models/knee.v2.{kind}"
        for kind in ("explainer.onnx", "golden.npz", "json", "pipeline.onnx")
    }
    code = {each for each in held if each.endswith(".py")}
    assert {"bento/service.py", "bento/worker/model_thread.py", "toolkit/xray/reading.py"} <= code
    own = {p.relative_to(ROOT).as_posix() for p in (ROOT / "bento").rglob("*.py")}
    assert {each for each in code if each.startswith("bento/")} == own
    assert not [each for each in code if "train" in each or each.startswith(("export", "batch"))]
    text = "".join((bento.path / "src" / each).read_text() for each in code)
    assert not re.search(r"^\s*(import|from) (torch|optuna)\b", text, re.MULTILINE)
    assert "bento/page/index.html" in held and "bento/image/Dockerfile" in held
    assert held - code - {each for each in held if each.startswith(("saved_models", "bento/"))} == {
        "bentofile.yaml"
    }


def test_a_bento_holds_nothing_that_the_interpreter_compiled(bento, checkout):
    assert list((checkout / "bento/page").rglob("*.pyc"))
    assert not list((bento.path / "src").rglob("*.pyc"))


def test_what_a_bento_holds_is_what_the_bentofile_names_with_the_shipped_model_in_place(bento):
    ours = yaml.safe_load((ROOT / "bentofile.yaml").read_text())
    written = yaml.safe_load((bento.path / "src/bentofile.yaml").read_text())
    assert [each.replace("knee.v2", "model_saved") for each in written["include"]] == ours[
        "include"
    ]
    assert written["python"]["requirements_txt"] == ours["python"]["requirements_txt"]
    assert written["python"]["lock_packages"] is False


def test_a_bento_serves_its_model_without_the_checkout(bento, tmp_path):
    # What an editable installation would find in the checkout must be in the bento.
    script = (
        "import importlib, pathlib, sys\n"
        "sys.meta_path = [f for f in sys.meta_path if '__editable__' not in f.__module__]\n"
        "sys.path.insert(0, '.')\n"
        "sys.modules['torch'] = None\n"
        "for path in pathlib.Path('.').glob('*/**/*.py'):\n"
        "    if path.stem not in ('__init__', '__main__', 'service', 'home', 'cli'):\n"
        "        importlib.import_module('.'.join(path.with_suffix('').parts))\n"
        "from bento.worker import assembly, settings\n"
        "found = assembly.check(settings.settings({'TOOLKIT_WORKERS': '1'}))\n"
        "print(found.record.name, assembly.__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-B", "-c", script],
        cwd=bento.path / "src",
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    name, file = done.stdout.split()
    assert name == "knee.v2"
    assert bento.path.samefile(Path(bento.path / "src", file).parents[3])


def test_a_bento_carries_the_chain_from_the_run_to_the_verdict(bento):
    labels = yaml.safe_load((bento.path / "bento.yaml").read_text())["labels"]
    assert labels == bento.labels
    src = bento.path / "src/saved_models"
    assert labels["checkpoint_sha256"] == sha256(SHIPPED.checkpoint)
    assert labels["onnx_sha256"] == sha256(src / "knee.v2.pipeline.onnx")
    assert labels["golden_sha256"] == sha256(src / "knee.v2.golden.npz")
    assert labels["equivalence"].startswith("passed: logits within ")
    recipe = json.loads(SHIPPED.manifest.read_text())["training"]["recipe"]
    assert labels["origin"] == f"run: preset default, seed 1, {recipe['epochs']} epochs"


def test_the_chain_names_the_study_where_there_was_one():
    from dataclasses import replace

    record = manifest.load(SHIPPED.manifest)
    study = records.TuningRecord("study-3", "study", 7, (40, 32), (0.5, 0.4), {})
    labels = provenance.labels(replace(record, tuning=study), {"pipeline": "a"}, "c0ffee")
    assert labels["origin"].startswith("study study-3, seed 7, trials 40, 32; run: ")
    assert labels["git_commit"] == "c0ffee"


def test_a_bento_installs_what_is_locked_by_hash(bento):
    text = (bento.path / "env/python/requirements.txt").read_text()
    locked = LOCK.read_text()
    assert re.findall(r"sha256:\w+", text) == re.findall(r"sha256:\w+", locked)


def test_building_again_gives_the_bento_that_is_there_and_refuses_one_that_was_changed(
    bento, model, checkout, tmp_path
):
    home = tmp_path / "home"
    shutil.copytree(bento.path.parents[2], home)
    again = bentos.build(model, checkout, home)
    assert (again.tag, again.labels) == (bento.tag, bento.labels)
    (again.path / "src/toolkit/xray/reading.py").write_text("# nothing is refused any more\n")
    with pytest.raises(PackagingError, match="is not as it was built"):
        bentos.build(model, checkout, home)


@pytest.mark.parametrize("kind", ["pipeline", "explainer", "golden"])
def test_a_file_that_has_changed_is_refused(model, tmp_path, kind):
    content = bytearray(model.path(kind).read_bytes())
    content[-1] ^= 1
    model.path(kind).write_bytes(content)
    with pytest.raises(ModelRefusedError):
        bentos.build(model, ROOT, tmp_path / "home")
    assert not (tmp_path / "home").exists()


def test_a_model_without_a_passed_proof_is_refused_in_one_line(model, tmp_path):
    record = json.loads(model.manifest.read_text())
    record["equivalence"]["legs"]["pipeline"]["passed"] = False
    model.manifest.write_text(json.dumps(record))
    words = ("package", model.name, "--models", model.folder)
    code, out, err = here(*words, cwd=ROOT, BENTOML_HOME=str(tmp_path / "home"))
    assert (code, out) == (2, "")
    assert err.startswith("error: knee.v2 was found not equal to PyTorch")
    assert err.count("\n") == 1
    with pytest.raises(ManifestError):
        bentos.build(ModelFiles(model.folder, "none"), ROOT, tmp_path / "home")


@pytest.mark.parametrize("name", ["Knee", "_knee", "knee_", "a..b", "a___b", "k" * 51])
def test_a_name_that_no_registry_takes_is_refused(name):
    with pytest.raises(UsageError, match="cannot name"):
        bentos.bento_name(name)
    assert bentos.bento_name("model_saved") == "toolkit-model_saved"


@pytest.fixture
def copy(checkout, tmp_path):
    """A checkout of one's own, to be changed."""
    return Path(shutil.copytree(checkout, tmp_path / "checkout"))


@pytest.mark.parametrize("place", ["bento/page/secret.txt", "toolkit/secret.py", "bento/page"])
def test_a_link_is_never_followed_into_a_bento(model, copy, tmp_path, place):
    secret = tmp_path / "secret"
    secret.mkdir()
    target = secret / "key"
    target.write_text("secret")
    if place == "bento/page":
        target = (copy / place).rename(secret / "page")
    (copy / place).symlink_to(target)
    with pytest.raises(PackagingError, match=r"is a link, .*: put the file there"):
        bentos.build(model, copy, tmp_path / "home")
    assert not (tmp_path / "home").exists()


def test_a_file_that_git_does_not_track_is_not_in_the_bento(model, copy, tmp_path):
    for line in (("init", "-q"), ("add", "bentofile.yaml", "bento", "toolkit")):
        subprocess.run(["git", "-C", copy, *line], check=True)
    (copy / "bento/page/key.txt").write_text("secret")
    (copy / "bento/page/link.txt").symlink_to("/etc/hostname")
    held = files_of(bentos.build(model, copy, tmp_path / "home"))
    assert "src/bento/page/index.html" in held and not {each for each in held if "key" in each}
    assert "src/bento/page/link.txt" not in held


def test_packaging_elsewhere_than_in_the_repository_says_so(model, tmp_path):
    with pytest.raises(UsageError, match="run this in the toolkit's repository"):
        bentos.build(model, tmp_path, tmp_path / "home")


def test_bentoml_keeps_its_files_where_they_can_be_written(tmp_path, monkeypatch):
    assert bentos.home_for({"BENTOML_HOME": str(tmp_path / "b")}) == tmp_path / "b"
    monkeypatch.setenv("HOME", str(tmp_path / "h"))
    assert bentos.home_for({}) == tmp_path / "h/bentoml"
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UsageError, match="cannot write"):
        bentos.home_for({"BENTOML_HOME": str(tmp_path / "file/b")})
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    made = bentos.home_for({})
    assert made.is_dir() and made.name.startswith("toolkit-bentoml-")
    shutil.rmtree(made)
