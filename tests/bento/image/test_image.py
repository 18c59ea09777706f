"""What an image is made with: its locks, its Dockerfile, its inventory and its health check."""

import json
import re
import subprocess
import sys
import threading
import time
import tomllib
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from bento.image import health, inventory

ROOT = Path(__file__).resolve().parents[3]
LOCKS = {name: ROOT / f"bento/image/requirements-{name}.txt" for name in ("cpu", "gpu")}
DOCKERFILE = ROOT / "bento/image/Dockerfile"


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
    done = subprocess.run([hadolint, DOCKERFILE], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout


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


@pytest.mark.full
def test_the_health_check_asks_the_port_that_bentoml_port_gives_the_service(
    monkeypatch, free_port, tmp_path
):
    assert "`-e BENTOML_PORT=4000`" in (ROOT / "docs/images.md").read_text()
    entry = re.search("^ENTRYPOINT (.+)$", DOCKERFILE.read_text(), re.MULTILINE)
    bentoml, *words = json.loads(entry[1])
    command = [Path(sys.executable).with_name(bentoml)]
    command += [each.replace("/app", ".") for each in words]
    monkeypatch.setenv("BENTOML_PORT", str(free_port()))
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path))
    monkeypatch.setenv("TOOLKIT_WORKERS", "1")
    with (tmp_path / "log").open("wb") as out:
        service = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=out)
    try:
        end = time.monotonic() + 60
        while health.main() != 0:
            assert service.poll() is None and time.monotonic() < end, Path(out.name).read_text()
            time.sleep(0.1)
    finally:
        service.terminate()
        service.wait(30)
