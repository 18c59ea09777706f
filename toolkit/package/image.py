"""Builds the image of a bento with podman, docker or buildah, from the bento's own Dockerfile."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from toolkit.errors import PackagingError, UsageError

if TYPE_CHECKING:
    from toolkit.package.bento import Bento

BACKENDS = ("podman", "docker", "buildah")
PROVIDERS = {"cpu": "cpu", "gpu": "cuda"}
"""What TOOLKIT_PROVIDER is in an image, by what the image is for."""
_INVENTORY = "/opt/venv/packages.json"
_OPTION = re.compile(r"[a-z][a-z-]*(=.*)?")


def find_backend(asked: str | None) -> str:
    """Return the tool to build with: the one asked for, or the first that is installed.

    Raises:
        UsageError: it is not installed, or none is.
    """
    for name in [asked] if asked else BACKENDS:
        if shutil.which(name):
            return name
    wanted = asked or ", ".join(BACKENDS)
    raise UsageError(f"not installed: {wanted}; images are built with podman, docker or buildah")


def image_tag(bento: "Bento", runtime: str) -> str:
    """Return the image's name and tag: `runtime` is cpu or gpu."""
    return f"{bento.name}:{bento.version}-{runtime}"


def image_labels(bento: "Bento") -> dict[str, str]:
    """Return the image's labels: those that OCI names, and the bento's with `toolkit.` before."""
    named = {
        "title": bento.name,
        "version": bento.version,
        "description": "Classifies knee X-rays. Not a medical device.",
        "licenses": "Apache-2.0",
    }
    if "git_commit" in bento.labels:
        named["revision"] = bento.labels["git_commit"]
    return {f"org.opencontainers.image.{name}": value for name, value in named.items()} | {
        f"toolkit.{name}": value for name, value in bento.labels.items()
    }


def build_command(bento: "Bento", runtime: str, backend: str, options: Sequence[str]) -> list[str]:
    """Return the command that builds an image.

    Args:
        bento: what goes in.
        runtime: `cpu` or `gpu`.
        backend: one of `BACKENDS`.
        options: more of the backend's own, each KEY=VALUE or KEY, without dashes.

    Raises:
        UsageError: an option of another form.
    """
    for each in options:
        if not _OPTION.fullmatch(each):
            raise UsageError(f"--opt {each!r} is not KEY=VALUE: give one such as network=host")
    # In the OCI format, which these two write by default, a HEALTHCHECK is lost.
    format_ = [] if backend == "docker" else ["--format", "docker"]
    arguments = {"RUNTIME": runtime, "PROVIDER": PROVIDERS[runtime], "MODEL": bento.labels["model"]}
    return [
        *(backend, "build", *format_, "--tag", image_tag(bento, runtime)),
        *("--file", str(bento.path / "src" / "bento" / "image" / "Dockerfile")),
        *(f"--build-arg={name}={value}" for name, value in arguments.items()),
        *(f"--label={name}={value}" for name, value in image_labels(bento).items()),
        *(f"--{each}" for each in options),
        str(bento.path),
    ]


def build(bento: "Bento", runtime: str, backend: str, options: Sequence[str]) -> str:
    """Build an image, as `build_command` says, and return its tag; the tool speaks on stderr.

    Raises:
        UsageError: an option of another form.
        PackagingError: the build failed.
    """
    done = subprocess.run(build_command(bento, runtime, backend, options), stdout=sys.stderr)  # noqa: S603
    if done.returncode:
        raise PackagingError(
            f"{backend} build failed with exit code {done.returncode}; what it said is above, and "
            "`toolkit doctor` looks at the tools"
        )
    return image_tag(bento, runtime)


def wheels(image: str, backend: str) -> list[dict[str, Any]]:
    """Return what is installed in an image, as `bento.image.inventory` lists it.

    Raises:
        PackagingError: the image cannot be read.
    """
    if backend == "buildah":
        container = _output(["buildah", "from", "--pull-never", image]).strip()
        try:
            text = _output(["buildah", "run", container, "--", "cat", _INVENTORY])
        finally:
            _output(["buildah", "rm", container])
    else:
        run = [backend, "run", "--rm", "--network=none", "--read-only", "--cap-drop=ALL"]
        text = _output([*run, "--entrypoint=cat", image, _INVENTORY])
    result: list[dict[str, Any]] = json.loads(text)
    return result


def _output(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True)  # noqa: S603
    if done.returncode:
        reason = " ".join(done.stderr.split()[-40:])
        raise PackagingError(f"{' '.join(command[:2])} failed: {reason}")
    return done.stdout
