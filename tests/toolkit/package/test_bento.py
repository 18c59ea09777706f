"""A bento holds what serves one proven model, says where it comes from, and comes out the same."""

import json
import os
import py_compile
import re
import shutil
import subprocess
import sys
import threading
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import yaml

from bento.image import health, inventory
from toolkit.errors import ManifestError, ModelRefusedError, PackagingError, UsageError
from toolkit.files import sha256
from toolkit.model import manifest
from toolkit.model.files import ModelFiles
from toolkit.package import bento as bentos
from toolkit.package import image, provenance, sbom

ROOT = Path(__file__).resolve().parents[3]
SHIPPED = ModelFiles(ROOT / "saved_models", "model_saved")
TOOLKIT = Path(sys.executable).with_name("toolkit")
LOCKS = {name: ROOT / f"bento/image/requirements-{name}.txt" for name in ("cpu", "gpu")}


def renamed(folder, name="knee.v2"):
    """The shipped model under another name, in a folder of its own, with its proof."""
    files = ModelFiles(folder, name)
    folder.mkdir()
    for kind in ("pipeline", "explainer", "golden", "checkpoint"):
        shutil.copy(SHIPPED.path(kind), files.path(kind))
    text = SHIPPED.manifest.read_text().replace('"model_saved', f'"{name}')
    files.manifest.write_text(text)
    return files


@pytest.fixture
def model(tmp_path):
    return renamed(tmp_path / "models")


@pytest.fixture(scope="session")
def twice(tmp_path_factory):
    """The bento of one model, built twice at the same time, in two homes."""
    folder = tmp_path_factory.mktemp("twice")
    files = renamed(folder / "models")
    with ThreadPoolExecutor() as pool:
        homes = [folder / "one", folder / "two"]
        return list(pool.map(lambda home: bentos.build(files, ROOT, home), homes))


@pytest.fixture
def bento(twice):
    return twice[0]


def files_of(bento):
    return {
        path.relative_to(bento.path).as_posix(): sha256(path)
        for path in bento.path.rglob("*")
        if path.is_file() and path.name != "bento.yaml"
    }


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
    assert {"bento/service.py", "bento/worker/engine.py", "toolkit/xray/reading.py"} <= code
    own = {p.relative_to(ROOT).as_posix() for p in (ROOT / "bento").rglob("*.py")}
    assert {each for each in code if each.startswith("bento/")} == own
    assert not [each for each in code if "train" in each or each.startswith(("export", "batch"))]
    text = "".join((bento.path / "src" / each).read_text() for each in code)
    assert not re.search(r"^\s*(import|from) (torch|optuna)\b", text, re.MULTILINE)
    assert "bento/page/index.html" in held and "bento/image/Dockerfile" in held
    assert held - code - {each for each in held if each.startswith(("saved_models", "bento/"))} == {
        "bentofile.yaml"
    }


def test_a_bento_holds_nothing_that_the_interpreter_compiled(bento, model, tmp_path):
    checkout = tmp_path / "checkout"
    shutil.copytree(ROOT / "toolkit", checkout / "toolkit")
    shutil.copytree(ROOT / "bento", checkout / "bento")
    shutil.copy(ROOT / bentos.BENTOFILE, checkout)
    page = checkout / "bento/page"
    (page / "__pycache__").mkdir(exist_ok=True)
    py_compile.compile(page / "__init__.py")
    py_compile.compile(page / "__init__.py", page / "__init__.pyc")
    built = bentos.build(model, checkout, tmp_path / "home")
    assert (built.path / "src/bento/page/__init__.py").is_file()
    assert {name for name in files_of(built) if name.startswith("src/bento/page")} == {
        name for name in files_of(bento) if name.startswith("src/bento/page")
    }


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
        "for path in pathlib.Path('.').glob('*/*.py'):\n"
        "    if path.stem not in ('__init__', 'service', 'home'):\n"
        "        importlib.import_module(f'{path.parent}.{path.stem}')\n"
        "from bento import assembly, settings\n"
        "found = assembly.check(settings.settings({'TOOLKIT_WORKERS': '1'}))\n"
        "print(found.name, assembly.__file__)"
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
    assert bento.path.samefile(Path(bento.path / "src", file).parents[2])


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
    study = manifest.TuningRecord("study-3", "study", 7, (40, 32), (0.5, 0.4), {})
    labels = provenance.labels(replace(record, tuning=study), {"pipeline": "a"}, "c0ffee")
    assert labels["origin"].startswith("study study-3, seed 7, trials 40, 32; run: ")
    assert labels["git_commit"] == "c0ffee"


def test_a_bento_installs_what_is_locked_by_hash(bento):
    text = (bento.path / "env/python/requirements.txt").read_text()
    locked = LOCKS["gpu"].read_text()
    assert re.findall(r"sha256:\w+", text) == re.findall(r"sha256:\w+", locked)


def test_building_again_gives_the_bento_that_is_there_and_refuses_one_that_was_changed(
    bento, tmp_path
):
    files = renamed(tmp_path / "models")
    home = tmp_path / "home"
    shutil.copytree(bento.path.parents[2], home)
    again = bentos.build(files, ROOT, home)
    assert (again.tag, again.labels) == (bento.tag, bento.labels)
    (again.path / "src/toolkit/xray/reading.py").write_text("# nothing is refused any more\n")
    with pytest.raises(PackagingError, match="is not as it was built"):
        bentos.build(files, ROOT, home)


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
    done = subprocess.run(
        [TOOLKIT, "package", model.name, "--models", model.folder],
        cwd=ROOT,
        env=os.environ | {"BENTOML_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: knee.v2 was found not equal to PyTorch")
    assert done.stderr.count("\n") == 1
    with pytest.raises(ManifestError):
        bentos.build(ModelFiles(model.folder, "none"), ROOT, tmp_path / "home")


@pytest.mark.parametrize("name", ["Knee", "_knee", "knee_", "a..b", "a___b", "k" * 51])
def test_a_name_that_no_registry_takes_is_refused(name):
    with pytest.raises(UsageError, match="cannot name"):
        bentos.bento_name(name)
    assert bentos.bento_name("model_saved") == "toolkit-model_saved"


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


def locked(name):
    """{package: [(version, marker, hashes)]} of a lock."""
    found = {}
    for entry in re.split(r"\n(?=\S)", LOCKS[name].read_text().strip()):
        head = re.fullmatch(r"([a-z0-9-]+)==(\S+)(?: ; ([^\\]*\S))? *\\", entry.split("\n")[0])
        assert head, entry[:80]
        hashes = re.findall(r"--hash=sha256:([0-9a-f]{64})", entry)
        found.setdefault(head[1], []).append((head[2], head[3], hashes))
    return found


@pytest.mark.parametrize("name", LOCKS)
def test_what_an_image_installs_is_pinned_to_one_version_with_its_hashes(name):
    found = locked(name)
    assert all(hashes for entries in found.values() for *_, hashes in entries)
    several = {each for each, entries in found.items() if len({v for v, *_ in entries}) > 1}
    assert all(marker for each in several for _, marker, _ in found[each])
    assert not {"torch", "optuna", "onnx", "pip", "uv"} & set(found)
    assert {"onnxruntime", "onnxruntime-gpu"} & set(found) == {
        {"cpu": "onnxruntime", "gpu": "onnxruntime-gpu"}[name]
    }
    assert any(each.startswith("nvidia-cudnn") for each in found) == (name == "gpu")


@pytest.mark.parametrize("name", LOCKS)
def test_the_locks_hold_what_pyproject_asks_for(name):
    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    asked = [*project["dependencies"], *extras["serve"], *extras["dicom"], *extras[name]]
    found = locked(name)
    for requirement in map(Requirement, asked):
        for version, *_ in found[requirement.name]:
            assert requirement.specifier.contains(version), requirement


def test_both_images_install_the_same_but_for_onnxruntime_and_cuda():
    cpu, gpu = locked("cpu"), locked("gpu")
    only = {each for each in set(cpu) ^ set(gpu) if not each.startswith("nvidia-")}
    assert only == {"onnxruntime", "onnxruntime-gpu"}
    assert all(cpu[each] == gpu[each] for each in set(cpu) & set(gpu))


def test_the_dockerfile_has_no_fault_that_hadolint_knows():
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run(
        [hadolint, ROOT / "bento/image/Dockerfile"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stdout


@pytest.mark.parametrize("backend", image.BACKENDS)
def test_the_build_is_a_list_of_arguments_with_the_chain_and_the_given_options(backend, bento):
    options = ["network=host", "volume=/a b:/c:ro", "no-cache"]
    command = image.build_command(bento, "gpu", backend, options)
    assert command[:2] == [backend, "build"]
    assert (command[2:4] == ["--format", "docker"]) == (backend != "docker")
    assert f"toolkit-knee.v2:{bento.version}-gpu" in command
    assert "--build-arg=PROVIDER=cuda" in command
    assert f"--label=toolkit.onnx_sha256={bento.labels['onnx_sha256']}" in command
    assert command[-4:-1] == ["--network=host", "--volume=/a b:/c:ro", "--no-cache"]
    assert (Path(command[-1]) / "src/bento/image/Dockerfile").is_file()
    for bad in ("--network=host", "=x", "", "-v", "a b=c"):
        with pytest.raises(UsageError, match="is not KEY=VALUE"):
            image.build_command(bento, "cpu", backend, [bad])


def test_options_of_an_image_without_one_are_refused(monkeypatch):
    command = [TOOLKIT, "package", "--opt", "network=host"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "go with --image" in done.stderr
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UsageError, match="not installed: podman, docker, buildah"):
        image.find_backend(None)
    with pytest.raises(UsageError, match="not installed: docker"):
        image.find_backend("docker")


def test_the_inventory_names_wheel_hash_and_licence_as_they_are_installed():
    report = {
        "metadata": {"name": "numpy", "version": "1.2.3"},
        "download_info": {"archive_info": {"hash": "sha256=ab12", "hashes": {"sha256": "ab12"}}},
    }
    entry = inventory.wheel(report)
    assert {k: entry[k] for k in ("name", "version", "sha256")} == {
        "name": "numpy",
        "version": "1.2.3",
        "sha256": "ab12",
    }
    assert "BSD" in entry["licence"]
    assert inventory.licence("bentoml") == "Apache-2.0"


def test_the_bill_of_materials_is_valid_cyclonedx_and_lists_wheels_and_model(bento):
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    wheels = [
        {"name": "numpy", "version": "2.4.6", "sha256": "a" * 64, "licence": "BSD-3-Clause"},
        {"name": "odd", "version": "1", "sha256": "b" * 64, "licence": "the licence of odd"},
        {"name": "silent", "version": "1", "sha256": "c" * 64, "licence": None},
    ]
    text = sbom.sbom(bento, f"{bento.tag}-cpu", wheels)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    bill = json.loads(text)
    parts = {each["name"]: each for each in bill["components"]}
    assert set(parts) == {"knee.v2", "numpy", "odd", "silent"}
    assert parts["knee.v2"]["type"] == "machine-learning-model"
    assert parts["knee.v2"]["hashes"][0]["content"] == bento.labels["onnx_sha256"]
    assert parts["numpy"]["purl"] == "pkg:pypi/numpy@2.4.6"
    assert parts["numpy"]["licenses"] == [{"license": {"id": "BSD-3-Clause"}}]
    named = {each["name"]: each["value"] for each in bill["metadata"]["component"]["properties"]}
    assert named == {f"toolkit.{name}": value for name, value in bento.labels.items()}


def test_the_health_check_says_yes_only_to_a_service_that_is_ready(monkeypatch, free_port):
    status = 200

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status if self.path == "/readyz" else 404)
            self.end_headers()

        def log_message(self, *_):
            pass

    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("BENTOML_PORT", str(server.server_port))
        assert health.main() == 0
        status = 503
        assert health.main() == 1
        server.shutdown()
        thread.join()
    monkeypatch.setenv("BENTOML_PORT", str(free_port()))
    assert health.main() == 1


def test_the_health_check_asks_the_port_that_bentoml_port_gives_the_service(
    bento, monkeypatch, free_port, tmp_path
):
    assert "`-e BENTOML_PORT=4000`" in (ROOT / "docs/images.md").read_text()
    dockerfile = (ROOT / "bento/image/Dockerfile").read_text()
    bentoml, *words = json.loads(re.search("^ENTRYPOINT (.+)$", dockerfile, re.MULTILINE)[1])
    command = [TOOLKIT.with_name(bentoml), *(each.replace("/app", ".") for each in words)]
    shutil.copytree(bento.path / "src", tmp_path / "app")
    monkeypatch.setenv("BENTOML_PORT", str(free_port()))
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path))
    monkeypatch.setenv("TOOLKIT_WORKERS", "1")
    with (tmp_path / "log").open("wb") as out:
        service = subprocess.Popen(command, cwd=tmp_path / "app", stdout=out, stderr=out)
    try:
        end = time.monotonic() + 60
        while health.main() != 0:
            assert service.poll() is None and time.monotonic() < end, Path(out.name).read_text()
            time.sleep(0.1)
    finally:
        service.terminate()
        service.wait(30)
