"""The CPU image, really built and really run: small, locked down, and equal to PyTorch."""

import json
import re
import shutil
import subprocess
import sys
import time
import zipfile
from importlib.metadata import PathDistribution
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from packaging.requirements import Requirement

from toolkit.doctor import cuda

pytestmark = [pytest.mark.container, pytest.mark.timeout(1800)]

ROOT = Path(__file__).resolve().parents[2]
TOOLKIT = Path(sys.executable).with_name("toolkit")
BASE = "localhost/python:3.11-slim"
GPU_LOCK = ROOT / "bento/image/requirements-gpu.txt"
LARGEST = 450 * 1000**2
"""Bytes that the image may add to its base."""
DRAIN_S = 15
# Seconds of CPU time of every process in the container, from its start to now.
CPU_TIME = (
    "import glob, os; print(sum(sum(map(int, open(f).read().rpartition(')')[2].split()[11:15]))"
    " for f in glob.glob('/proc/[0-9]*/stat')) / os.sysconf('SC_CLK_TCK'))"
)
# The package that brings each library which the CUDA provider is linked with.
PACKAGES = {
    "libcublas": "nvidia-cublas",
    "libcublasLt": "nvidia-cublas",
    "libcudart": "nvidia-cuda-runtime",
    "libcufft": "nvidia-cufft",
    "libcurand": "nvidia-curand",
}


def inspected(podman, image):
    return json.loads(podman("image", "inspect", image))[0]


def test_every_leg_of_the_equivalence_holds_in_the_container(running, models):
    command = [TOOLKIT, "verify", "model_saved", "--models", models, "--url", running[1], "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    content = json.loads(done.stdout)
    assert content["passed"]
    assert {"pipeline", "service"} <= set(content["legs"])
    assert all(leg["passed"] for leg in content["legs"].values())


def test_the_image_adds_at_most_450_mb_to_its_base(podman, packaged):
    image, base = (inspected(podman, each)["Size"] for each in (packaged["image"], BASE))
    assert 0 < image - base <= LARGEST


def test_nothing_in_the_image_can_build_or_train(inside):
    tools = "gcc g++ cc c++ cpp ld as make cmake rustc uv"
    assert inside(f"for each in {tools}; do command -v $each || true; done") == ""
    assert inside("python -c 'import torch' 2>&1 || true").endswith("No module named 'torch'\n")
    assert inside("python -m pip 2>&1 || true").endswith("No module named pip\n")
    assert inside("find / -xdev -path '*cache*' -name '*.whl' 2>/dev/null || true") == ""
    assert inside("find / -xdev -type d -path '*/.cache/*' 2>/dev/null || true") == ""
    assert inside("ls /app") == "bento\nbentofile.yaml\nsaved_models\ntoolkit\n"


def test_it_runs_as_a_plain_user_who_can_change_nothing(inside, podman, packaged):
    assert inside("id -u && id -g") == "1034\n1034\n"
    assert "CapEff:\t0000000000000000" in inside("cat /proc/1/status")
    assert inside("find /app /opt/venv -writable 2>/dev/null || true") == ""
    assert inspected(podman, packaged["image"])["Config"]["User"] == "1034:1034"


def test_telemetry_is_off_and_the_provider_is_the_processor(inside):
    environment = inside("tr '\\0' '\\n' < /proc/1/environ").splitlines()
    assert {
        "BENTOML_DO_NOT_TRACK=true",
        "ORT_DISABLE_TELEMETRY=1",
        "TOOLKIT_PROVIDER=cpu",
        "TOOLKIT_MODEL=model_saved",
    } <= set(environment)


def test_its_health_check_asks_the_service(podman, running, packaged, inside):
    check = inspected(podman, packaged["image"])["Healthcheck"]["Test"]
    assert check == ["CMD", "python", "-m", "bento.image.health"]
    assert podman("healthcheck", "run", running[0], check=False) == 0
    assert inside("BENTOML_PORT=1 python -m bento.image.health; echo $?") == "1\n"


def test_the_image_carries_the_chain_and_what_it_is_made_of(podman, packaged):
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    labels = inspected(podman, packaged["image"])["Labels"]
    for name, value in packaged["labels"].items():
        assert labels[f"toolkit.{name}"] == value
    assert labels["org.opencontainers.image.title"] == "toolkit-model_saved"
    text = Path(packaged["sbom"]).read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    parts = json.loads(text)["components"]
    wheels = [each for each in parts if each["type"] == "library"]
    lock = (ROOT / "bento/image/requirements-cpu.txt").read_text()
    assert {"numpy", "onnxruntime", "bentoml"} <= {each["name"] for each in wheels}
    for each in wheels:
        assert f"sha256:{each['hashes'][0]['content']}" in lock, each["name"]
        assert each["licenses"], each["name"]


def test_it_is_ready_within_five_seconds_of_work(start, podman):
    container, _ = start("--env=TOOLKIT_WORKERS=1")
    spent = float(podman("exec", container, "python", "-c", CPU_TIME))
    assert 0 < spent < 5


def test_a_stop_lets_it_finish_and_end_by_itself(start, podman):
    container, _ = start("--env=TOOLKIT_WORKERS=2")
    began = time.monotonic()
    podman("stop", f"--time={2 * DRAIN_S}", container)
    assert time.monotonic() - began < DRAIN_S
    assert podman("inspect", container, "--format={{.State.ExitCode}}") == "0\n"


def test_a_precision_that_it_does_not_hold_is_refused_at_the_start(podman, packaged):
    run = ["run", "--rm", "--read-only", "--tmpfs=/tmp", "--env=TOOLKIT_PRECISION=int4"]
    assert podman(*run, packaged["image"], check=False) == 2


@pytest.fixture(scope="session")
def locked():
    """{package: version} that the GPU image installs."""
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", GPU_LOCK.read_text(), re.MULTILINE))


@pytest.fixture(scope="session")
def onnxruntime_gpu(locked, tmp_path_factory):
    """The wheel of onnxruntime-gpu that the GPU image installs, unpacked."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary=:all:", "--python-version=3.11", "--platform=manylinux_2_28_x86_64"]
    command += ["--dest", folder, f"onnxruntime-gpu=={locked['onnxruntime-gpu']}"]
    subprocess.run(command, check=True)
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as opened:
        opened.extractall(folder)
    path.unlink()
    yield folder
    shutil.rmtree(folder)


def test_the_gpu_image_has_every_cuda_library_that_its_onnxruntime_is_linked_with(
    onnxruntime_gpu, locked
):
    provider = onnxruntime_gpu / "onnxruntime/capi/libonnxruntime_providers_cuda.so"
    with provider.open("rb") as file:
        tags = ELFFile(file).get_section_by_name(".dynamic").iter_tags("DT_NEEDED")
        needed = [each.needed for each in tags if each.needed.startswith("libcu")]
    # The driver itself brings this one.
    needed.remove("libcuda.so.1")
    assert {"libcudart", "libcublas"} <= {each.partition(".")[0] for each in needed}
    for name in needed:
        library, _, major = name.partition(".so.")
        assert locked[PACKAGES[library]].partition(".")[0] == major, name
    (major,) = {each.rpartition(".")[2] for each in needed if each.startswith("libcudart.")}
    assert int(major) == cuda.major_of_onnxruntime(cuda.image_version(GPU_LOCK))


def test_the_gpu_image_has_the_cudnn_and_the_rest_that_its_onnxruntime_opens_as_it_runs(
    onnxruntime_gpu, locked
):
    (folder,) = onnxruntime_gpu.glob("*.dist-info")
    asked = PathDistribution(folder).requires
    extras = [Requirement(each) for each in asked if re.search(r"extra == .(cuda|cudnn)\b", each)]
    assert {"nvidia-cudnn-cu13", "nvidia-cufft"} <= {each.name for each in extras}
    for each in extras:
        assert each.specifier.contains(locked[each.name]), each
