"""The tools that build and run containers, a stand-in for the base image, and the CPU image."""

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BASE = "localhost/python:3.11-slim"
TOOLKIT = Path(sys.executable).with_name("toolkit")
# What this kind of machine needs to reach a package index from inside a build.
OPTIONS = ["--opt=network=host", "--opt=volume=/etc/ssl/certs:/etc/ssl/certs:ro"]
LOCKED_DOWN = ["--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--memory=1g"]
LOCKED_DOWN += ["--security-opt=no-new-privileges"]


@pytest.fixture(scope="session")
def podman(shared):
    """Return a function that runs podman and returns its stdout; a base image is there."""
    for tool in ("mmdebstrap", "podman", "buildah", "runc"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    os.environ["CONTAINERS_CONF"] = str(shared / "container" / "containers.conf")

    def run(*arguments, check=True):
        done = subprocess.run(["podman", *arguments], capture_output=True, text=True)
        assert not check or done.returncode == 0, done.stderr
        return done.stdout if check else done.returncode

    if run("image", "exists", BASE, check=False):
        subprocess.run([shared / "container" / "base-image.sh"], check=True)
    return run


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """The shipped model in a folder that may be written."""
    folder = tmp_path_factory.mktemp("models") / "saved_models"
    shutil.copytree(ROOT / "saved_models", folder)
    return folder


@pytest.fixture(scope="session")
def packaged(podman, models, tmp_path_factory):
    """What `toolkit package --image cpu` says of the image that it built."""
    folder = tmp_path_factory.mktemp("packaged")
    command = [TOOLKIT, "package", "model_saved", "--models", models, "--image", "cpu"]
    command += ["--backend", "podman", *OPTIONS, "--out", folder / "dist", "--json"]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"BENTOML_HOME": str(folder / "bentoml")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    content = json.loads(done.stdout)
    yield content
    podman("rmi", "--force", content["image"])


@pytest.fixture(scope="session")
def start(podman, packaged, free_port):
    """Return a function that starts the image locked down: its id and address, once ready."""
    started = []

    def run(*options):
        port = free_port()
        arguments = [*LOCKED_DOWN, f"--publish=127.0.0.1:{port}:3000", *options]
        container = podman("run", "--detach", *arguments, packaged["image"]).strip()
        started.append(container)
        url, end = f"http://127.0.0.1:{port}", time.monotonic() + 120
        while not _ready(url):
            running = podman("inspect", container, "--format={{.State.Running}}").strip()
            assert running == "true" and time.monotonic() < end, podman("logs", container)
            time.sleep(0.05)
        return container, url

    yield run
    for each in started:
        podman("rm", "--force", "--time=1", each)


@pytest.fixture(scope="session")
def running(start):
    """The id and the address of a container that all tests share."""
    return start("--env=TOOLKIT_WORKERS=1")


@pytest.fixture(scope="session")
def inside(podman, running):
    """Return a function that runs a shell line in the container and returns what it prints."""
    return lambda line: podman("exec", running[0], "sh", "-c", line)


def _ready(url):
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False
