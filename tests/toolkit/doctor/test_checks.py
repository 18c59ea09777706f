"""`toolkit doctor`: pure checks on made-up machines, and the real command on this one."""

import ctypes
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import json_of, run_installed

from toolkit.commands.doctor import doctor
from toolkit.doctor import checks, cuda, host
from toolkit.doctor.checks import CUDA, Driver, Probe
from toolkit.errors import UsageError

ROOT = Path(__file__).resolve().parents[3]
CPU = "CPUExecutionProvider"
NEW, OLD, NONE = Driver(True, "580.95.05"), Driver(True, "570.86.15"), Driver()
# As ONNX Runtime 1.31 writes it.
SAID = (
    "\x1b[1;31m2026-11-24 21:55:33.1 [E:onnxruntime:Default, provider_bridge_ort.cc:2458 "
    "operator()] provider_bridge_ort.cc:2043 [ONNXRuntimeError] : 1 : FAIL : Failed to load "
    "library /x/libonnxruntime_providers_cuda.so with error: {}: cannot open shared object "
    "file: No such file or directory\n\x1b[m\n\x1b[0;93m[W:onnxruntime:Default] Failed to create "
    "CUDAExecutionProvider. Require cuDNN 9.* and CUDA 13.*.\x1b[m\n"
)
WHOLE, ON_CPU = Probe((CUDA, CPU), "13.0"), Probe((CPU,))
DIED = Probe(said="CUDA failure 35: too old\n", ended="was ended by SIGSEGV")
ORT, GPU = {"onnxruntime": "1.32.0"}, {"onnxruntime-gpu": "1.31.1"}
BOTH = "pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'toolkit[gpu]'"


def lacking(library):
    return Probe((CPU,), "13.0", SAID.format(library))


def libraries(requested, probe):
    return checks.libraries(requested, "1.31.1", probe)


def refusing(said):
    return libraries("cuda", Probe((CPU,), "13.0", f"Failed to load libcudnn.so.9: {said}\n"))


def session(requested, driver, probe, build="onnxruntime-gpu"):
    return checks.provider(requested, build, "1.31.1", driver, probe)


def driver(requested, driver, probe, version="1.31.1"):
    return checks.driver_for(requested, version, driver, probe)


CASES = {
    "Python older than 3.11 is an error": [
        (checks.python((3, 10, 9)), "error", "Python 3.11"),
        (checks.python((3, 11, 0)), "ok", "3.11.0"),
        (checks.python((3, 14, 1)), "ok", "3.14.1"),
    ],
    "a CPU build of torch beside a driver is a warning": [
        (checks.torch("2.13.0", None, NEW), "warning", "CUDA build of torch"),
        (checks.torch("2.13.0", "13.0", NEW), "ok", "CUDA 13.0"),
    ],
    "both builds of onnxruntime are an error with the way out": [
        (checks.onnxruntime(ORT | GPU, "auto", NEW), "error", "both installed"),
        (checks.onnxruntime(ORT | GPU, "auto", NEW), "error", BOTH),
        (checks.onnxruntime(ORT | GPU, "auto", NONE), "error", "toolkit[cpu]"),
    ],
    "no build is an error, and one that leaves a GPU unused a warning": [
        (checks.onnxruntime({}, "auto", NONE), "error", "not installed"),
        (checks.onnxruntime(ORT, "auto", NONE), "ok", "onnxruntime 1.32.0"),
        (checks.onnxruntime(ORT, "auto", NEW), "warning", "CPU build"),
        (checks.onnxruntime(ORT, "cuda", NEW), "error", "CPU build"),
        (checks.onnxruntime(ORT, "cpu", NEW), "ok", "onnxruntime 1.32.0"),
    ],
    "a library that is missing or refused is named with the package that brings it": [
        (libraries("cuda", lacking("libcudnn.so.9")), "error", "missing: libcudnn.so.9"),
        (libraries("cuda", lacking("libcublasLt.so.13")), "error", "missing: libcublasLt.so.13"),
        (libraries("auto", lacking("libcudnn.so.9")), "warning", "gpu[cuda,cudnn]==1.31.1"),
        (refusing("libz.so.1: cannot open shared object file"), "error", "missing: libz.so.1"),
        (refusing("invalid ELF header"), "error", "libcudnn.so.9: invalid ELF header"),
        (libraries("cuda", lacking("libcuda.so.1")), "error", "--gpus all"),
        (libraries("cuda", WHOLE), "ok", "are there"),
    ],
    "a session on the CPU is ok where nobody expects CUDA": [
        (session("cuda", NEW, WHOLE), "ok", CUDA),
        (session("auto", NONE, ON_CPU, "onnxruntime"), "ok", CPU),
        (session("cpu", NEW, ON_CPU), "ok", CPU),
        (session("cuda", NONE, ON_CPU, "onnxruntime"), "error", CPU),
        (session("cuda", NEW, lacking("libcudnn.so.9")), "error", CPU),
        (session("cuda", NEW, lacking("libcudnn.so.9")), "error", "libcudnn.so.9"),
        (session("auto", NEW, lacking("libcudnn.so.9")), "warning", CPU),
        (session("cuda", OLD, ON_CPU), "error", "driver 580"),
        (session("cuda", NONE, ON_CPU), "error", "driver 580"),
        (session("tpu", NONE, ON_CPU), "error", "auto, cpu or cuda"),
        (session("auto", NEW, DIED), "error", "SIGSEGV: CUDA failure 35"),
    ],
    "a driver is judged by the CUDA version that the build is for": [
        (driver("cuda", OLD, WHOLE), "error", "570.86.15 is too old"),
        (driver("cuda", OLD, WHOLE), "error", "driver 580 or newer"),
        (driver("cuda", OLD, WHOLE), "error", "<1.27"),
        (driver("auto", OLD, WHOLE), "warning", "CUDA 13"),
        (driver("cuda", NEW, WHOLE), "ok", "CUDA 13"),
        (driver("cuda", OLD, Probe((CUDA, CPU), "12.8")), "ok", "CUDA 12"),
        (driver("cuda", Driver(True), WHOLE), "warning", "nvidia-smi"),
        (driver("auto", NONE, Probe()), "ok", "none"),
        (driver("cuda", NONE, Probe()), "error", "install driver 580"),
        (driver("auto", NEW, Probe(), "1.26.0"), "ok", "CUDA 12"),
        (driver("auto", NEW, Probe(), "1.27.0"), "ok", "CUDA 13"),
        (driver("auto", NEW, Probe(), "1.32.0.dev1"), "ok", "CUDA 13"),
    ],
    "the GPU image needs the driver of the build that it installs": [
        (checks.image("1.31.1", "570.86"), "error", "CUDA 13"),
        (checks.image("1.31.1", "580.65.06"), "ok", "CUDA 13"),
        (checks.image("1.31.1", "610"), "ok", "CUDA 13"),
        (checks.image("1.26.0", "525.60.13"), "ok", "CUDA 12"),
        (checks.image("1.26.0", "524.9"), "error", "driver 525"),
    ],
    "a small disk, a home that cannot be written and a dead engine are told": [
        (checks.disk("logs", "/logs", 1_999_999_999), "warning", "free some space"),
        (checks.disk("logs", "/logs", 2_000_000_000), "ok", "2.0 GB"),
        (checks.home("/root", False, False), "error", "BENTOML_HOME"),
        (checks.home("/root", False, True), "warning", "BENTOML_HOME"),
        (checks.tool("docker", "28.2.2", "cannot connect"), "warning", "start the Docker"),
    ],
    "telemetry that somebody turned on is a warning": [
        (checks.telemetry(name, value), status, name if status == "warning" else "set")
        for name, off in checks.TELEMETRY.items()
        for value, status in ((None, "ok"), (off, "ok"), ("0", "warning"))
    ],
}


@pytest.mark.parametrize("promise", CASES)
def test_a_machine_is_judged_and_whatever_is_not_ok_comes_with_a_mend(promise):
    for found, status, words in CASES[promise]:
        assert found.status == status, found
        assert words in f"{found.found}; {found.mend}", found
        assert status == "ok" or found.mend, found
        assert "\x1b" not in found.found and "\n" not in found.found


def test_pip_is_not_told_to_bring_what_the_driver_does():
    assert "pip" not in libraries("cuda", lacking("libcuda.so.1")).mend


def test_the_version_is_the_one_that_the_image_installs(tmp_path):
    lock = ROOT / "bento/image/requirements-gpu.txt"
    (pinned,) = re.findall(r"^onnxruntime-gpu==(\S+)", lock.read_text(), re.MULTILINE)
    assert cuda.image_version(lock) == pinned
    other = tmp_path / "requirements.txt"
    other.write_text("# onnxruntime-gpu==9\nnumpy==2.4.6")
    with pytest.raises(UsageError, match="pins no onnxruntime-gpu"):
        cuda.image_version(other)
    with pytest.raises(UsageError, match="cannot read"):
        cuda.image_version(tmp_path / "none")


@pytest.mark.parametrize(
    ("text", "version"),
    [
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 2024",
            "535.183.01",
        ),
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build",
            "580.95.05",
        ),
        ("Module 570.86.15", "570.86.15"),
        ("Module command not found", None),
    ],
)
def test_the_driver_is_read_from_what_the_kernel_or_nvidia_smi_says(text, version):
    assert host.driver_version(text) == version


FAKE = """
cuda_version = "13.0"
def get_available_providers():
    return ["CUDAExecutionProvider", "CPUExecutionProvider"]
def preload_dlls():
    print("Failed to load libcublasLt.so.13: libcublasLt.so.13: cannot open shared object file")
class InferenceSession:
    def __init__(self, graph, providers):
        assert providers == get_available_providers()
    def get_providers(self):
        return ["CPUExecutionProvider"]
"""


def test_what_onnxruntime_says_of_its_libraries_and_what_it_does_not_say_is_heard(
    tmp_path, monkeypatch
):
    (tmp_path / "onnxruntime.py").write_text(FAKE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = host.probe(with_cuda=True)
    assert (found.active, found.cuda, found.ended) == ((CPU,), "13.0", None)
    assert found.missing[0] == "libcublasLt.so.13"
    for name in ("libcuda.so.1", "libcudnn.so.9"):
        try:
            ctypes.CDLL(name)
        except OSError:
            assert name in found.missing


def run(*arguments, cwd=ROOT, **environment):
    with pytest.MonkeyPatch.context() as patch:
        for name in checks.TELEMETRY:
            patch.delenv(name, raising=False)
        said = run_installed("doctor", *arguments, "--json", cwd=cwd, **environment)
    assert "Traceback" not in said.err, said.err
    return said.code, json_of(said)


def of(content, check):
    return next(each for each in content["findings"] if each["check"] == check)


def test_this_machine_is_looked_at_as_it_is():
    code, content = run(BENTOML_DO_NOT_TRACK="false", TOOLKIT_PROVIDER="cpu")
    assert (code == 0) == content["passed"]
    assert of(content, "python")["found"] == ".".join(map(str, sys.version_info[:3]))
    assert of(content, "provider")["found"].endswith(f"a session runs on {CPU}")
    assert of(content, "model")["status"] == "ok"
    assert "pipeline" in of(content, "model")["found"]
    assert of(content, "BENTOML_DO_NOT_TRACK")["status"] == "warning"
    assert of(content, "BENTOML_CONFIG")["found"] == "not set"
    assert of(content, "ORT_DISABLE_TELEMETRY")["found"].startswith("not set")
    assert {each["status"] for each in content["findings"]} <= {"ok", "warning", "error"}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("none.yaml", "not found: 'BENTOML_CONFIG=none.yaml'"),
        ("bentoml.json", "does not end with either '.yaml' or '.yml'"),
        ("bad.yaml", "while parsing a flow node"),
        (".", "does not end with"),
        ("good.yaml", None),
    ],
)
def test_bentomls_configuration_is_judged_before_bentoml_ends_in_a_traceback(
    tmp_path, monkeypatch, name, said
):
    (tmp_path / "bad.yaml").write_text("a: [")
    (tmp_path / "good.yaml").write_text("services: {toolkit: {workers: 1}}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BENTOML_CONFIG", name)
    found = checks.bentoml_config(name, host.bentoml_config())
    assert found.status == ("error" if said else "ok")
    assert (said or name) in found.found and "Traceback" not in found.found


def test_a_crashing_onnxruntime_and_a_changed_model_do_not_take_the_doctor_down(tmp_path):
    fake = tmp_path / "fake" / "onnxruntime"
    fake.mkdir(parents=True)
    (fake / "__init__.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)\n")
    models = tmp_path / "models"
    models.mkdir()
    for each in (ROOT / "saved_models").glob("model_saved*"):
        shutil.copy(each, models)
    with (models / "model_saved.pipeline.onnx").open("ab") as file:
        file.write(b"x")
    code, content = run("--models", models, PYTHONPATH=str(fake.parent), cwd=tmp_path)
    assert code == 1 and not content["passed"]
    assert "SIGSEGV" in of(content, "provider")["found"]
    assert "is not the file that was proven" in of(content, "model")["found"]


def test_a_name_that_no_model_can_have_does_not_take_the_doctor_down(tmp_path):
    code, content = run("--models", ROOT / "saved_models", cwd=tmp_path, TOOLKIT_MODEL="a/b")
    assert code == 1 and len(content["findings"]) > 10
    assert "'a/b' cannot name a model" in of(content, "model")["found"]
    mend = of(content, "model")["mend"]
    assert mend.startswith("name one of ") and "model_saved" in mend


def test_the_image_is_judged_before_it_is_built(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert doctor(image="gpu", driver="570.86", as_json=True) == 1
    (found,) = json.loads(capsys.readouterr().out)["findings"]
    assert found["check"] == "image" and "580" in found["mend"]
    assert doctor(image="gpu", driver="580.65.06") == 0
    assert doctor(image="cpu") == 0
    with pytest.raises(UsageError, match="--image gpu"):
        doctor(driver="570")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="cannot read"):
        doctor(image="gpu", driver="570")


def test_the_doctor_itself_loads_neither_torch_nor_onnxruntime():
    script = (
        "import sys; from typer.testing import CliRunner; from toolkit.cli import app; "
        "assert CliRunner().invoke(app, ['doctor']).exit_code in (0, 1); "
        "print(sorted({'torch', 'onnxruntime', 'bentoml'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and done.stdout == "[]\n", done.stdout + done.stderr
