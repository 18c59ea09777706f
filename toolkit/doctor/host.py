"""Facts about this machine, for `toolkit doctor`: asked for, never changed."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution, requires
from pathlib import Path

from toolkit.doctor.checks import Driver, Probe
from toolkit.extras import DRIVER_FILE, GPU_FILES, ONNXRUNTIME_EXTRAS, versions

_PATIENCE_S = 5.0
_PROBE_S = 60.0


def driver() -> Driver:
    """Return the NVIDIA driver, by what the kernel says or else nvidia-smi."""
    if not any(each.exists() for each in GPU_FILES):
        return Driver()
    try:
        text = DRIVER_FILE.read_text(encoding="ascii", errors="replace")
    except OSError:
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        text = f"Module {_output(query)[1]}"
    return Driver(True, driver_version(text))


def driver_version(text: str) -> str | None:
    """Return the version in what /proc/driver/nvidia/version holds; None where there is none."""
    found = re.search(r"Module\b.*?\s(\d{3,}(?:\.\d+)+)\b", text)
    return found[1] if found else None


def torch_build() -> tuple[str | None, str | None]:
    """Return PyTorch's version and the CUDA version that it was built for; None for none."""
    found = versions("torch").get("torch")
    if found is None:
        return None, None
    try:
        path = Path(str(distribution("torch").locate_file("torch/version.py")))
        built_for = re.search(r"^cuda\b.*= '([\d.]+)'$", path.read_text("utf-8"), re.MULTILINE)
    except OSError:
        return found, None
    return found, built_for[1] if built_for else None


def probe(with_cuda: bool) -> Probe:
    """Open a session in a process of its own; whatever becomes of that is in the answer."""
    package = str(Path(__file__).resolve().parents[2])
    paths = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "toolkit.runtime.probe", "cuda" if with_cuda else "cpu"]
    try:
        done = subprocess.run(  # noqa: S603
            command,
            capture_output=True,
            text=True,
            errors="replace",
            env=os.environ | {"PYTHONPATH": paths, "ORT_DISABLE_TELEMETRY": "1"},
            timeout=_PROBE_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Probe(ended=f"did not answer within {_PROBE_S:.0f} s")
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        return Probe(said=done.stderr, ended=f"was ended by {name}")
    if done.returncode:
        return Probe(said=done.stderr, ended="cannot be loaded")
    found = json.loads(done.stdout)
    return Probe(tuple(found["active"]), found["cuda"], done.stderr)


def tool_version(name: str) -> str | None:
    """Return what `NAME --version` says; None where it is not found."""
    if shutil.which(name) is None:
        return None
    code, text = _output([name, "--version"])
    found = re.search(r"\d+(\.\d+)+", text)
    return found[0] if code == 0 and found else f"does not run: {text[:100]}"


def docker_engine() -> str | None:
    """Return what is wrong with Docker's engine; None where it answers."""
    code, text = _output(["docker", "version", "--format", "{{.Server.Version}}"])
    return None if code == 0 else text[:200]


def _output(command: list[str], patience: float = _PATIENCE_S) -> tuple[int, str]:
    try:
        done = subprocess.run(  # noqa: S603
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=patience,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return 124, f"no answer within {patience:.0f} s"
    except OSError as error:
        return 127, error.strerror or str(error)
    said = done.stdout if done.returncode == 0 else done.stderr
    return done.returncode, " ".join(said.split())


def bentoml_config() -> str:
    """Return what BentoML says against the file in BENTOML_CONFIG; nothing where it takes it."""
    command = [sys.executable, "-c", "import bentoml._internal.configuration.containers"]
    code, text = _output(command, _PROBE_S)
    said = re.match(r".*\w(?:Error|Exception): (.+)", text)
    return "" if code == 0 else said[1] if said else text


def free_bytes(folder: Path) -> int:
    """Return the free bytes of the disk on which a folder lies, or would be made."""
    whole = folder.absolute()
    there = next(each for each in (whole, *whole.parents) if each.exists())
    return shutil.disk_usage(there).free


def environment() -> dict[str, str]:
    """Return the environment that this process was started with, before it set anything."""
    try:
        content = Path("/proc/self/environ").read_bytes()
    except OSError:
        return dict(os.environ)
    pairs = (each.partition(b"=") for each in content.split(b"\0") if each)
    return {os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs}


def missing_of_extras() -> dict[str, list[str]]:
    """Return for each extra its packages that are not installed; nothing without metadata.

    Not for cpu and gpu: they exclude each other; `toolkit.doctor.checks.onnxruntime` judges them.
    """
    try:
        lines = requires("toolkit") or []
    except PackageNotFoundError:
        return {}
    result: dict[str, list[str]] = {}
    for line in lines:
        found = re.match(r"""([\w.-]+).*\bextra == ["']([\w-]+)["']""", line)
        if found and found[2] not in ONNXRUNTIME_EXTRAS.values():
            missing = result.setdefault(found[2], [])
            missing += [] if versions(found[1]) else [found[1]]
    return result
