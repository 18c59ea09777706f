"""What is wrong with a machine, judged from facts that `toolkit.doctor.host` finds on it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from toolkit.doctor import cuda

LEAST_PYTHON = (3, 11)
LEAST_FREE = 2 * 1000**3
"""Free disk below which there is a warning, bytes."""
TELEMETRY = {"ORT_DISABLE_TELEMETRY": "1", "BENTOML_DO_NOT_TRACK": "true"}
"""What turns off what the dependencies would tell of this machine."""
CUDA = "CUDAExecutionProvider"
CPU_BUILD, GPU_BUILD = "onnxruntime", "onnxruntime-gpu"
_MISSING = re.compile(r"(lib[\w.+-]+\.so[.\d]*): cannot open shared object file")
# As ONNX Runtime's preload_dlls says it.
_REFUSED = re.compile(r"^Failed to load (lib\S+: .+)$", re.MULTILINE)
_OWN_CPU = "or TOOLKIT_PROVIDER=cpu"


class Status(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True)
class Diagnosis:
    """One thing that was looked at: what was found and, where it is not ok, what to do."""

    check: str
    status: Status
    found: str
    mend: str | None = None


@dataclass(frozen=True)
class Driver:
    """The NVIDIA driver: whether there is one, and its version where that can be read."""

    present: bool = False
    version: str | None = None


@dataclass(frozen=True)
class Probe:
    """What ONNX Runtime did in a process of its own.

    Attributes:
        active: the providers of a session, the one that runs it first; empty where none was
            opened.
        cuda: the CUDA version that it was built for and asked to load; empty where it was not.
        said: what it and the loader of its libraries said.
        ended: how the process ended, in words; None where it ended well.
    """

    active: tuple[str, ...] = ()
    cuda: str = ""
    said: str = ""
    ended: str | None = None

    @property
    def missing(self) -> list[str]:
        """Shared libraries that were not found, by name."""
        return list(dict.fromkeys(_MISSING.findall(self.said)))

    @property
    def reason(self) -> str:
        """One line of what ONNX Runtime said; empty where it said nothing."""
        plain = re.sub(r"\x1b\[[\d;]*m", "", self.said)
        lines = [" ".join(line.split()) for line in plain.splitlines() if line.strip()]
        telling = [line for line in lines if "with error:" in line or "CUDA failure" in line]
        line = (telling or lines[-1:] or [""])[0]
        return re.split(r"with error: |(?=CUDA failure)", line)[-1][:300]


def python(version: tuple[int, int, int]) -> Diagnosis:
    """Judge the version of Python."""
    found = ".".join(map(str, version))
    if version[:2] < LEAST_PYTHON:
        return Diagnosis("python", Status.ERROR, found, "install Python 3.11 or newer")
    return Diagnosis("python", Status.OK, found)


def torch(version: str | None, built_for: str | None, driver: Driver) -> Diagnosis:
    """Judge PyTorch, None where it is not installed; a CPU build is `built_for` no CUDA version."""
    if version is None:
        return Diagnosis("torch", Status.OK, "not installed: training and export need it")
    build = f"CUDA {built_for}" if built_for else "CPU build"
    if driver.present and not built_for:
        mend = "pip install --force-reinstall a CUDA build of torch, to train on the GPU"
        return Diagnosis(
            "torch", Status.WARNING, f"{version}, {build}, beside an NVIDIA driver", mend
        )
    return Diagnosis("torch", Status.OK, f"{version}, {build}")


def onnxruntime(builds: Mapping[str, str], requested: str, driver: Driver) -> Diagnosis:
    """Judge which builds of ONNX Runtime are installed, by name and version."""
    found = " and ".join(f"{name} {version}" for name, version in builds.items())
    flavour = "gpu" if driver.present else "cpu"
    clean = f"pip uninstall -y {CPU_BUILD} {GPU_BUILD} && pip install 'toolkit[{flavour}]'"
    if not builds:
        mend = f"pip install 'toolkit[{flavour}]'"
        return Diagnosis("onnxruntime", Status.ERROR, "not installed", mend)
    if len(builds) > 1:
        found += " are both installed, in one folder: the later one overwrote the other"
        return Diagnosis("onnxruntime", Status.ERROR, found, clean)
    if CPU_BUILD in builds and driver.present and requested != "cpu":
        found += ", a CPU build beside an NVIDIA driver"
        return Diagnosis("onnxruntime", _grade(requested), found, f"{clean}, {_OWN_CPU}")
    return Diagnosis("onnxruntime", Status.OK, found)


def provider(requested: str, build: str, version: str, driver: Driver, probe: Probe) -> Diagnosis:
    """Judge what a session runs on, against what TOOLKIT_PROVIDER asks for.

    Args:
        requested: `auto`, `cpu` or `cuda`.
        build: the build of ONNX Runtime that is installed.
        version: its version.
        driver: of the machine.
        probe: asked for CUDA where the service would.
    """
    asked = f"TOOLKIT_PROVIDER is {requested}"
    if requested not in ("auto", "cpu", "cuda"):
        mend = "set TOOLKIT_PROVIDER to auto, cpu or cuda"
        return Diagnosis("provider", Status.ERROR, f"TOOLKIT_PROVIDER is {requested!r}", mend)
    if probe.ended:
        reason = f": {probe.reason}" if probe.reason else ""
        found = f"{asked}; ONNX Runtime {probe.ended}{reason}"
        mend = f"pip install --force-reinstall '{build}{_extras(build)}=={version}'"
        return Diagnosis("provider", Status.ERROR, found, mend)
    found = f"{asked}; a session runs on {probe.active[0]}"
    expects_cuda = requested == "cuda" or (
        requested == "auto" and build == GPU_BUILD and driver.present
    )
    if not expects_cuda or probe.active[0] == CUDA:
        return Diagnosis("provider", Status.OK, found)
    reason = f", for ONNX Runtime says: {probe.reason}" if probe.reason else ""
    mend = _cuda_mend(build, version, driver, probe)
    return Diagnosis("provider", _grade(requested), found + reason, mend)


def libraries(requested: str, version: str, probe: Probe) -> Diagnosis:
    """Judge the shared libraries that the CUDA provider of onnxruntime-gpu needs."""
    if probe.missing:
        found = f"missing: {', '.join(probe.missing)}"
    elif refused := _REFUSED.findall(probe.said):
        found = "; ".join(refused)
    else:
        return Diagnosis("cuda libraries", Status.OK, "those of the CUDA provider are there")
    # The driver brings libcuda itself; pip has no package of it.
    toolkit = [each for each in probe.missing if not each.startswith("libcuda.so")]
    mend = (
        f"pip install 'onnxruntime-gpu[cuda,cudnn]=={version}'"
        if toolkit or not probe.missing
        else "libcuda comes with the NVIDIA driver; give a container the GPU: docker run --gpus all"
    )
    return Diagnosis("cuda libraries", _grade(requested), found, f"{mend}, {_OWN_CPU}")


def driver_for(requested: str, version: str, driver: Driver, probe: Probe) -> Diagnosis:
    """Judge the driver against the CUDA version that the installed onnxruntime-gpu asks for."""
    major = _major(version, probe)
    least = cuda.least_driver(major)
    needs = (
        f"onnxruntime-gpu {version} needs CUDA {major}, so a driver of {_dotted(least)} or newer"
    )
    if not driver.present:
        if requested != "cuda":
            return Diagnosis("driver", Status.OK, f"none; {needs}")
        return Diagnosis("driver", Status.ERROR, f"none; {needs}", _driver_mend(least, major))
    if driver.version is None:
        mend = "see what `nvidia-smi` says"
        return Diagnosis("driver", Status.WARNING, f"of unknown version; {needs}", mend)
    if cuda.version_of(driver.version) < least:
        found = f"{driver.version} is too old: {needs}"
        return Diagnosis("driver", _grade(requested), found, _driver_mend(least, major))
    return Diagnosis("driver", Status.OK, f"{driver.version}; {needs}")


def image(version: str, driver: str) -> Diagnosis:
    """Judge whether the GPU image runs on a host with that driver.

    Args:
        version: of the onnxruntime-gpu that the image installs.
        driver: the host's version, such as 570.86.
    """
    major = cuda.major_of_onnxruntime(version)
    least = cuda.least_driver(major)
    needs = (
        f"onnxruntime-gpu {version} brings CUDA {major}, which needs a driver of "
        f"{_dotted(least)} or newer"
    )
    if cuda.version_of(driver) >= least:
        return Diagnosis("image", Status.OK, f"runs with driver {driver}: {needs}")
    found = f"does not run on a GPU with driver {driver}: {needs}"
    return Diagnosis("image", Status.ERROR, found, _driver_mend(least, major, driver))


def tool(name: str, version: str | None, engine: str | None = None) -> Diagnosis:
    """Judge a container tool: None is not found; `engine` is what is wrong with its engine."""
    if version is None:
        return Diagnosis(name, Status.OK, "not found; only building images needs one")
    if engine is not None:
        mend = "start the Docker engine, or build with podman or buildah"
        return Diagnosis(
            name, Status.WARNING, f"{version}; its engine does not answer: {engine}", mend
        )
    return Diagnosis(name, Status.OK, version)


def disk(what: str, folder: str, free: int) -> Diagnosis:
    """Judge the free bytes of the disk that a folder lies on."""
    found = f"{free / 1000**3:.1f} GB free for {what} in {folder}"
    if free < LEAST_FREE:
        mend = f"free some space: under {LEAST_FREE // 1000**3} GB, logs and bentos soon fill it"
        return Diagnosis("disk", Status.WARNING, found, mend)
    return Diagnosis("disk", Status.OK, found)


def home(folder: str, writable: bool, bentoml_home: bool) -> Diagnosis:
    """Judge the home folder; `bentoml_home` is whether BentoML was given another one."""
    if writable:
        return Diagnosis("home", Status.OK, f"{folder} can be written")
    status = Status.WARNING if bentoml_home else Status.ERROR
    mend = "set HOME and BENTOML_HOME to a folder that can be written, such as one in /tmp"
    return Diagnosis("home", status, f"{folder} cannot be written", mend)


def bentoml_config(given: str | None, said: str) -> Diagnosis:
    """Judge BENTOML_CONFIG by what BentoML says against the file; None where it is not set."""
    name, status = "BENTOML_CONFIG", Status.ERROR if said else Status.OK
    mend = f"unset {name}, or have it name a file of BentoML's settings that ends in .yaml"
    return Diagnosis(name, status, said or given or "not set", mend if said else None)


def telemetry(name: str, value: str | None) -> Diagnosis:
    """Judge a switch as the environment of this process has it; None where it is not set."""
    off = TELEMETRY[name]
    if value is None:
        return Diagnosis(name, Status.OK, f"not set; the toolkit and its service set it to {off}")
    if value.lower() == off:
        return Diagnosis(name, Status.OK, f"set to {value}: telemetry is off")
    found = f"set to {value!r}: the toolkit leaves it so, and telemetry may be on"
    return Diagnosis(name, Status.WARNING, found, f"unset {name}, or set it to {off}")


def packages(name: str, missing: Sequence[str]) -> Diagnosis:
    """Judge an extra of the toolkit by those of its packages that are not installed."""
    if not missing:
        return Diagnosis(f"extra {name}", Status.OK, "installed")
    found = f"not installed: {', '.join(missing)}"
    return Diagnosis(f"extra {name}", Status.OK, found, f"pip install 'toolkit[{name}]'")


def _grade(requested: str) -> Status:
    # Where CUDA was not asked for by name, a CPU session serves as well, slower.
    return Status.ERROR if requested == "cuda" else Status.WARNING


def _extras(build: str) -> str:
    return "[cuda,cudnn]" if build == GPU_BUILD else ""


def _major(version: str, probe: Probe) -> int:
    built_for = probe.cuda.partition(".")[0]
    return int(built_for) if built_for.isdigit() else cuda.major_of_onnxruntime(version)


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def _cuda_mend(build: str, version: str, driver: Driver, probe: Probe) -> str:
    if build == CPU_BUILD:
        return f"pip uninstall -y {CPU_BUILD} && pip install 'toolkit[gpu]', {_OWN_CPU}"
    major = _major(version, probe)
    least = cuda.least_driver(major)
    old = driver.version is not None and cuda.version_of(driver.version) < least
    if old or not driver.present:
        return _driver_mend(least, major)
    return f"pip install --force-reinstall '{GPU_BUILD}[cuda,cudnn]=={version}', {_OWN_CPU}"


def _driver_mend(least: tuple[int, ...], major: int, driver: str | None = None) -> str:
    mend = f"install driver {_dotted(least)} or newer on the host"
    older = cuda.least_driver(12)
    if major > 12 and (driver is None or cuda.version_of(driver) >= older):
        mend += (
            "; or, for CUDA 12 and a driver of "
            f"{_dotted(older)} or newer, ask for 'onnxruntime-gpu[cuda,cudnn]>=1.24,<1.27'"
        )
    return f"{mend}; {_OWN_CPU.removeprefix('or ')} runs without a GPU"
