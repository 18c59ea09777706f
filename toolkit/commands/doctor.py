"""`toolkit doctor`: what on this machine is not as training and serving need it."""

import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from toolkit.commands.options.common import Image
from toolkit.console import LOGS, MODELS, Console, JsonOption, LogsOption
from toolkit.doctor import checks, host
from toolkit.doctor.checks import Diagnosis, Status
from toolkit.doctor.cuda import image_version
from toolkit.errors import CheckFailedError, ToolkitError, UsageError, numbered
from toolkit.extras import ONNXRUNTIME_EXTRAS, versions
from toolkit.model.files import ModelFiles, names_in, served_name

LOCK = Path("bento/image/requirements-gpu.txt")


def doctor(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]",
            envvar="TOOLKIT_MODEL",
            help="The model's name; else the one that is served.",
        ),
    ] = None,
    image: Annotated[
        Image | None, typer.Option(help="Only say whether this image will run on a host.")
    ] = None,
    driver: Annotated[
        str | None,
        typer.Option(metavar="VERSION", help="With --image: the host's; else this machine's."),
    ] = None,
    models: Annotated[
        Path, typer.Option(metavar="DIR", envvar="TOOLKIT_MODELS", help="Where the models lie.")
    ] = MODELS,
    logs: LogsOption = LOGS,
    as_json: JsonOption = False,
) -> int:
    """Look at Python, packages, GPU, disk and model; exit 1 if something is wrong with them."""
    if driver is not None and image is None:
        raise UsageError("--driver goes with --image gpu: it is the version on another host")
    findings = (
        [_image(image, driver)] if image else _machine(name or served_name(models), models, logs)
    )
    errors = sum(each.status is Status.ERROR for each in findings)
    warnings = sum(each.status is Status.WARNING for each in findings)
    summary = f"{numbered(errors, 'error')}, {numbered(warnings, 'warning')}"
    content = {"passed": errors == 0, "findings": [asdict(each) for each in findings]}
    Console(as_json).result(content, "\n".join([*map(_line, findings), summary]))
    return CheckFailedError.exit_code if errors else 0


def _image(image: Image, driver: str | None) -> Diagnosis:
    if image == "cpu":
        return Diagnosis("image", Status.OK, "runs on any host: it needs no driver")
    version = driver or host.driver().version
    if version is None:
        raise UsageError("no NVIDIA driver is found here: give the host's with --driver VERSION")
    return checks.image(image_version(LOCK), version)


def _machine(name: str, models: Path, logs: Path) -> list[Diagnosis]:
    driver = host.driver()
    started_with = host.environment()
    home = Path(os.environ.get("HOME") or "~").expanduser()
    bentoml_home = os.environ.get("BENTOML_HOME")
    places = {"models": models, "logs": logs, "BentoML": Path(bentoml_home or home / "bentoml")}
    return [
        checks.python(sys.version_info[:3]),
        checks.torch(*host.torch_build(), driver),
        *_runtime(driver),
        *(checks.packages(each, missing) for each, missing in host.missing_of_extras().items()),
        _model(name, models),
        *(checks.disk(what, str(path), host.free_bytes(path)) for what, path in places.items()),
        checks.home(str(home), os.access(home, os.W_OK), bentoml_home is not None),
        _bentoml_config(),
        *(checks.telemetry(each, started_with.get(each)) for each in checks.TELEMETRY),
        *(checks.tool(each, host.tool_version(each)) for each in ("podman", "buildah")),
        _docker(),
    ]


def _runtime(driver: checks.Driver) -> list[Diagnosis]:
    requested = os.environ.get("TOOLKIT_PROVIDER", "auto")
    builds = versions(*ONNXRUNTIME_EXTRAS)
    findings = [checks.onnxruntime(builds, requested, driver)]
    if len(builds) != 1:
        return findings
    ((build, version),) = builds.items()
    with_cuda = requested == "cuda" or (requested == "auto" and driver.present)
    probe = host.probe(with_cuda)
    findings.append(checks.provider(requested, build, version, driver, probe))
    if build == checks.GPU_BUILD and requested != "cpu":
        findings.append(checks.driver_for(requested, version, driver, probe))
        if probe.cuda:
            findings.append(checks.libraries(requested, version, probe))
    return findings


def _bentoml_config() -> Diagnosis:
    given = os.environ.get("BENTOML_CONFIG")
    asked = given is not None and versions("bentoml")
    return checks.bentoml_config(given, host.bentoml_config() if asked else "")


def _docker() -> Diagnosis:
    version = host.tool_version("docker")
    return checks.tool("docker", version, host.docker_engine() if version else None)


def _model(name: str, models: Path) -> Diagnosis:
    from toolkit.model import manifest
    from toolkit.model.artifacts import check_equivalence

    try:
        files = ModelFiles(models, name)
        record = manifest.load(files.manifest)
        check_equivalence(files, record)
        proven = record.equivalence.legs if record.equivalence else {}
        kinds = [each for each in proven if files.path(each).is_file()]
        for kind in kinds:
            check_equivalence(files, record, kind)
    except ToolkitError as error:
        mend = f"toolkit export onnx {name} --models {models}, or name another model"
        there = names_in(models)
        if name not in there:
            mend = (
                f"name one of {', '.join(there)}" if there else f"toolkit train --models {models}"
            )
            mend += ", or another folder with --models or TOOLKIT_MODELS"
        return Diagnosis("model", Status.ERROR, str(error), mend)
    return Diagnosis("model", Status.OK, f"{name}: proven and unchanged are {', '.join(kinds)}")


def _line(finding: Diagnosis) -> str:
    mend = f"\n{'':26}do: {finding.mend}" if finding.mend else ""
    return f"{finding.status:8} {finding.check:22} {finding.found}{mend}"
