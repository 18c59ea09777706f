"""`toolkit doctor`: pure checks on made-up machines, and the real command on this one."""

import ctypes
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from toolkit.doctor import checks, cuda, host
from toolkit.doctor.checks import CUDA, Diagnosis, Driver, Probe, Status
from toolkit.errors import UsageError

ROOT = Path(__file__).resolve().parents[3]
TOOLKIT = Path(sys.executable).with_name("toolkit")
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


def lacking(library):
    return Probe((CPU,), "13.0", SAID.format(library))


WHOLE = Probe((CUDA, CPU), "13.0")
ON_CPU = Probe((CPU,))


@pytest.mark.parametrize(
    ("version", "status"), [((3, 10, 9), "error"), ((3, 11, 0), "ok"), ((3, 14, 1), "ok")]
)
def test_python_older_than_3_11_is_an_error(version, status):
    assert checks.python(version).status == status


def test_both_builds_of_onnxruntime_are_an_error_with_the_way_out():
    both = {"onnxruntime": "1.32.0", "onnxruntime-gpu": "1.31.1"}
    found = checks.onnxruntime(both, "auto", NEW)
    assert found.status == "error" and "both installed" in found.found
    assert found.mend == (
        "pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'toolkit[gpu]'"
    )
    assert "toolkit[cpu]" in checks.onnxruntime(both, "auto", NONE).mend


def test_no_build_is_an_error_and_one_that_leaves_a_gpu_unused_a_warning():
    assert checks.onnxruntime({}, "auto", NONE).status == "error"
    cpu = {"onnxruntime": "1.32.0"}
    assert checks.onnxruntime(cpu, "auto", NONE).status == "ok"
    assert checks.onnxruntime(cpu, "auto", NEW).status == "warning"
    assert checks.onnxruntime(cpu, "cuda", NEW).status == "error"
    assert checks.onnxruntime(cpu, "cpu", NEW).status == "ok"


@pytest.mark.parametrize("library", ["libcudnn.so.9", "libcublasLt.so.13"])
def test_a_missing_library_is_named_with_the_package_that_brings_it(library):
    probe = lacking(library)
    found = checks.libraries("cuda", "1.31.1", probe)
    assert found.status == "error" and found.found == f"missing: {library}"
    assert "onnxruntime-gpu[cuda,cudnn]==1.31.1" in found.mend
    session = checks.provider("cuda", "onnxruntime-gpu", "1.31.1", NEW, probe)
    assert session.status == "error"
    assert f"runs on {CPU}" in session.found and library in session.found
    assert "\x1b" not in session.found and "\n" not in session.found
    assert checks.provider("auto", "onnxruntime-gpu", "1.31.1", NEW, probe).status == "warning"


def test_a_library_that_is_missing_to_another_library_is_named():
    said = "Failed to load libcudnn.so.9: libz.so.1: cannot open shared object file: No such file"
    probe = Probe((CPU,), "13.0", said)
    assert checks.libraries("cuda", "1.31.1", probe).found == "missing: libz.so.1"


def test_a_library_that_the_loader_refuses_for_another_reason_is_told_with_it():
    probe = Probe((CPU,), "13.0", "Failed to load libcudnn.so.9: invalid ELF header\n")
    found = checks.libraries("cuda", "1.31.1", probe)
    assert found.status == "error" and found.found == "libcudnn.so.9: invalid ELF header"


def test_libcuda_is_said_to_come_with_the_driver_and_not_with_pip():
    found = checks.libraries("cuda", "1.31.1", lacking("libcuda.so.1"))
    assert "driver" in found.mend and "--gpus all" in found.mend and "pip" not in found.mend


def test_all_libraries_and_a_cuda_session_are_ok():
    assert checks.libraries("cuda", "1.31.1", WHOLE).status == "ok"
    assert checks.provider("cuda", "onnxruntime-gpu", "1.31.1", NEW, WHOLE).status == "ok"


def test_a_session_on_the_cpu_is_ok_where_nobody_expects_cuda():
    assert checks.provider("auto", "onnxruntime", "1.32.0", NONE, ON_CPU).status == "ok"
    assert checks.provider("cpu", "onnxruntime-gpu", "1.31.1", NEW, ON_CPU).status == "ok"
    assert checks.provider("cuda", "onnxruntime", "1.32.0", NONE, ON_CPU).status == "error"


def test_a_provider_that_is_none_is_an_error():
    found = checks.provider("tpu", "onnxruntime", "1.32.0", NONE, ON_CPU)
    assert found.status == "error" and "auto, cpu or cuda" in found.mend


def test_an_onnxruntime_that_crashes_is_an_error_with_its_signal():
    probe = Probe(said="CUDA failure 35: driver too old\n", ended="was ended by SIGSEGV")
    found = checks.provider("auto", "onnxruntime-gpu", "1.31.1", NEW, probe)
    assert found.status == "error" and "SIGSEGV: CUDA failure 35" in found.found


def test_an_old_driver_is_judged_by_the_cuda_version_that_the_build_is_for():
    found = checks.driver_for("cuda", "1.31.1", OLD, WHOLE)
    assert found.status == "error" and "570.86.15 is too old" in found.found
    assert "CUDA 13" in found.found and "580" in found.mend and "<1.27" in found.mend
    assert checks.driver_for("auto", "1.31.1", OLD, WHOLE).status == "warning"
    assert checks.driver_for("cuda", "1.31.1", NEW, WHOLE).status == "ok"
    twelve = Probe((CUDA, CPU), "12.8")
    assert checks.driver_for("cuda", "1.31.1", OLD, twelve).status == "ok"


@pytest.mark.parametrize(
    ("version", "major"), [("1.26.0", 12), ("1.27.0", 13), ("1.32.0.dev1", 13)]
)
def test_where_a_build_does_not_say_its_cuda_its_own_version_does(version, major):
    assert f"CUDA {major}" in checks.driver_for("auto", version, NEW, Probe()).found


def test_no_driver_matters_only_where_cuda_was_asked_for():
    assert checks.driver_for("auto", "1.31.1", NONE, Probe()).status == "ok"
    assert checks.driver_for("cuda", "1.31.1", NONE, Probe()).status == "error"


IMAGES = [
    (">=1.24,<1.32", "570.86", "error"),
    (">=1.24,<1.32", "580.65.06", "ok"),
    (">=1.24,<1.32", "610", "ok"),
    (">=1.24,<1.27", "570.86", "ok"),
    (">=1.24,<1.27", "524.9", "error"),
    ("==1.26.*", "525.60.13", "ok"),
    ("~=1.26.0", "570", "ok"),
    ("~=1.26", "570", "error"),
    ("", "570", "error"),
]


@pytest.mark.parametrize(("requirement", "driver", "status"), IMAGES)
def test_the_gpu_image_needs_the_driver_of_the_newest_build_in_its_range(
    requirement, driver, status
):
    found = checks.image(requirement, driver)
    assert found.status == status
    assert f"CUDA {cuda.image_major(requirement)}" in found.found
    assert (found.mend is None) == (status == "ok")


def test_the_requirement_is_the_one_that_the_image_is_built_from(tmp_path):
    lock = ROOT / "bento/image/requirements-gpu.txt"
    (pinned,) = re.findall(r"^onnxruntime-gpu(==\S+)", lock.read_text(), re.MULTILINE)
    assert cuda.image_requirement(lock) == pinned
    other = tmp_path / "requirements.txt"
    other.write_text("# onnxruntime-gpu>=9\nonnxruntime-gpu [cuda] >= 1.24, < 1.27 # x\n")
    assert cuda.image_requirement(other) == ">=1.24,<1.27"
    other.write_text("numpy==2.4.6")
    with pytest.raises(UsageError, match="asks for no onnxruntime-gpu"):
        cuda.image_requirement(other)
    with pytest.raises(UsageError, match="cannot read"):
        cuda.image_requirement(tmp_path / "none")


def test_a_small_disk_and_a_home_that_cannot_be_written_are_told():
    assert checks.disk("logs", "/logs", 1_999_999_999).status == "warning"
    assert checks.disk("logs", "/logs", 2_000_000_000).status == "ok"
    assert checks.home("/root", False, bentoml_home=False).status == "error"
    assert checks.home("/root", False, bentoml_home=True).status == "warning"


def test_telemetry_that_somebody_turned_on_is_a_warning():
    for name, off in checks.TELEMETRY.items():
        assert checks.telemetry(name, None).status == "ok"
        assert checks.telemetry(name, off).status == "ok"
        assert checks.telemetry(name, "0").status == "warning"


def test_whatever_is_not_ok_comes_with_a_mend():
    findings: list[Diagnosis] = [
        checks.python((3, 9, 0)),
        checks.torch("2.13.0", None, NEW),
        checks.onnxruntime({}, "auto", NEW),
        checks.onnxruntime({"onnxruntime": "1.32.0"}, "cuda", NEW),
        checks.provider("tpu", "onnxruntime", "1.32.0", NONE, WHOLE),
        checks.provider("cuda", "onnxruntime-gpu", "1.31.1", NEW, Probe(ended="died")),
        *(
            checks.provider("cuda", build, "1.31.1", driver, lacking("libcuda.so.1"))
            for build in ("onnxruntime", "onnxruntime-gpu")
            for driver in (NEW, OLD, NONE)
        ),
        checks.driver_for("cuda", "1.31.1", NONE, WHOLE),
        checks.driver_for("cuda", "1.31.1", Driver(True), WHOLE),
        checks.disk("logs", "/", 0),
        checks.home("/", False, False),
        checks.telemetry("BENTOML_DO_NOT_TRACK", "false"),
        checks.tool("docker", "28.2.2", "cannot connect"),
    ]
    for each in findings:
        assert each.status != Status.OK and each.mend, each


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
    clean = {k: v for k, v in os.environ.items() if not k.startswith("TOOLKIT_")}
    for name in checks.TELEMETRY:
        clean.pop(name, None)
    done = subprocess.run(
        [TOOLKIT, "doctor", *map(str, arguments), "--json"],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=clean | environment,
        timeout=120,
    )
    assert done.stdout.count("\n") == 1 and "Traceback" not in done.stderr, done.stderr
    return done.returncode, json.loads(done.stdout)


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
    assert of(content, "ORT_DISABLE_TELEMETRY")["found"].startswith("not set")
    assert {each["status"] for each in content["findings"]} <= {"ok", "warning", "error"}


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


def test_the_image_is_judged_before_it_is_built(tmp_path):
    code, content = run("--image", "gpu", "--driver", "570.86")
    assert code == 1 and len(content["findings"]) == 1
    assert "580" in of(content, "image")["mend"]
    assert run("--image", "gpu", "--driver", "580.65.06")[0] == 0
    code, content = run("--driver", "570")
    assert code == 2 and "--image gpu" in content["error"]
    assert run("--image", "gpu", "--driver", "570", cwd=tmp_path)[0] == 2


def test_the_doctor_itself_loads_neither_torch_nor_onnxruntime():
    script = (
        "import sys; from typer.testing import CliRunner; from toolkit.cli import app; "
        "assert CliRunner().invoke(app, ['doctor']).exit_code in (0, 1); "
        "print(sorted({'torch', 'onnxruntime', 'bentoml'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and done.stdout == "[]\n", done.stdout + done.stderr
