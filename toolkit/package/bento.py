"""Builds a bento: what serves one proven model, and nothing else.

`bentofile.yaml` says what goes in, with the shipped model's name; here it is the packaged one's.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.errors import PackagingError, UsageError
from toolkit.extras import require
from toolkit.files import sha256
from toolkit.model import manifest
from toolkit.model.artifacts import check_equivalence, load_golden
from toolkit.model.files import DEFAULT_NAME, ModelFiles, checked_image_name
from toolkit.package import provenance

BENTOFILE = Path("bentofile.yaml")
_MODELS = Path("saved_models")
_SERVED = ("pipeline", "explainer", "fp16", "int8")


@dataclass(frozen=True)
class Bento:
    """A bento in BentoML's store.

    Attributes:
        name: `toolkit-` and the model's name.
        version: 16 hexadecimal digits of the hash of what went in.
        path: its folder.
        labels: where the model comes from.
    """

    name: str
    version: str
    path: Path
    labels: dict[str, str]

    @property
    def tag(self) -> str:
        """Its name and version, as BentoML takes them."""
        return f"{self.name}:{self.version}"


def build(files: ModelFiles, root: Path, home: Path) -> Bento:
    """Build the bento of a model, or return the one that the same inputs gave before.

    Args:
        files: of the model.
        root: the folder with `bentofile.yaml` and what that names.
        home: BentoML's.

    Raises:
        ManifestError: no such model.
        ModelRefusedError: one of its files has no passed proof, or has changed.
        UsageError: a name that no image can have, or no `bentofile.yaml`.
        PackagingError: BentoML failed, or the bento was changed after it was built.
    """
    name = bento_name(files.name)
    record = manifest.load(files.manifest)
    labels = provenance.labels(record, _proven_hashes(files, record), _commit(root))
    with tempfile.TemporaryDirectory() as folder:
        stage = Path(folder)
        _fill(stage, root, files)
        version = _version(stage, labels)
        bento = Bento(name, version, home / "bentos" / name / version, labels)
        if bento.path.exists():
            _require_unchanged(bento, stage)
        else:
            _run(bento, stage, files.name, home)
    return bento


def bento_name(model: str) -> str:
    """Return what the bento and the image of a model are called.

    Raises:
        UsageError: registries do not take such a name.
    """
    try:
        checked_image_name(model)
    except UsageError as error:
        raise UsageError(f"{error}; `toolkit rename {model} NEW` gives it another") from error
    return f"toolkit-{model}"


def home_for(environment: Mapping[str, str]) -> Path:
    """Return BentoML's folder, or a temporary one that stays where the home cannot be written.

    Raises:
        UsageError: BENTOML_HOME cannot be written, or no other folder either.
    """
    from toolkit import bentoml_home

    given = environment.get("BENTOML_HOME")
    folder = Path(given) if given else bentoml_home.default()
    if bentoml_home.usable(folder):
        return folder.absolute()
    substitute = None if given else bentoml_home.substitute()
    if substitute is None:
        raise UsageError(f"cannot write to {folder}: set BENTOML_HOME to a folder that takes files")
    return substitute


def patterns_of(root: Path) -> list[str]:
    """Return the patterns of what goes into a bento.

    Raises:
        UsageError: no `bentofile.yaml` that says so.
    """
    yaml: Any = require("yaml", "serve")
    path = root / BENTOFILE
    try:
        result: list[str] = yaml.safe_load(path.read_bytes())["include"]
    except (OSError, TypeError, KeyError, yaml.YAMLError) as error:
        raise UsageError(
            f"{path} cannot be read: run this in the toolkit's repository, or restore the file"
        ) from error
    return result


def _proven_hashes(files: ModelFiles, record: manifest.Manifest) -> dict[str, str]:
    """Check every file that would be served, and return their hashes by kind."""
    load_golden(files, record)
    kinds = [each for each in _SERVED if each == "pipeline" or files.path(each).is_file()]
    return {kind: check_equivalence(files, record, kind) for kind in kinds}


def _fill(stage: Path, root: Path, files: ModelFiles) -> None:
    """Copy what the patterns name into an empty folder, with the model's files as its own."""
    shipped, own = (f"{_MODELS}/{name}." for name in (DEFAULT_NAME, files.name))
    known = set(filter(None, (_git(root, "ls-files", "-z") or "").split("\0")))
    for pattern in patterns_of(root):
        if pattern.startswith(shipped):
            source = files.folder / pattern.replace(shipped, own).removeprefix(f"{_MODELS}/")
            sources = {_MODELS / source.name: source} if source.is_file() else {}
        else:
            found = (each for each in root.glob(pattern) if _is_source(each, root, known))
            sources = {each.relative_to(root): each for each in found}
        for target, source in sources.items():
            (stage / target).parent.mkdir(parents=True, exist_ok=True)
            (stage / target).write_bytes(source.read_bytes())
    text = (root / BENTOFILE).read_text(encoding="utf-8")
    (stage / BENTOFILE).write_text(text.replace(shipped, own), encoding="utf-8")


def _is_source(path: Path, root: Path, known: set[str]) -> bool:
    """Return whether a file goes into a bento: one that git knows, or any where git knows none.

    Raises:
        PackagingError: it is a link, or lies behind one.
    """
    place = path.relative_to(root)
    if not path.is_file() or path.suffix == ".pyc" or (known and place.as_posix() not in known):
        return False
    if path.resolve() != root.resolve() / place:
        raise PackagingError(f"{path} is a link, which a bento does not follow: put the file there")
    return True


def _digests(folder: Path) -> dict[str, str]:
    paths = sorted(each for each in folder.rglob("*") if each.is_file())
    return {each.relative_to(folder).as_posix(): sha256(each) for each in paths}


def _version(stage: Path, labels: Mapping[str, str]) -> str:
    from importlib.metadata import version

    content = [_digests(stage), dict(labels), version("bentoml")]
    return hashlib.sha256(repr(content).encode()).hexdigest()[:16]


def _require_unchanged(bento: Bento, stage: Path) -> None:
    wanted, found = _digests(stage), _digests(bento.path / "src")
    # BentoML writes this one anew, with its defaults.
    wanted.pop(str(BENTOFILE)), found.pop(str(BENTOFILE), None)
    if wanted != found:
        raise PackagingError(
            f"{bento.path} is not as it was built: remove it by `bentoml delete {bento.tag}`, "
            "then package again"
        )


def _run(bento: Bento, stage: Path, model: str, home: Path) -> None:
    given = {k: v for k, v in os.environ.items() if not k.startswith(("TOOLKIT_", "BENTOML_"))}
    own = {
        "BENTOML_HOME": str(home),
        "BENTOML_DO_NOT_TRACK": "true",
        "ORT_DISABLE_TELEMETRY": "1",
        "TOOLKIT_MODEL": model,
        # BentoML keeps the number in the bento; the service goes by where it runs.
        "TOOLKIT_WORKERS": "1",
        # What is built is what is imported, not the checkout that is installed.
        "PYTHONPATH": str(stage),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [sys.executable, "-m", "bentoml", "build", "--output", "tag"]
    command += ["--name", bento.name, "--version", bento.version]
    command += [f"--label={name}={value}" for name, value in bento.labels.items()]
    done = subprocess.run(  # noqa: S603
        [*command, str(stage)], cwd=stage, env=given | own, capture_output=True, text=True
    )
    if done.returncode or not (bento.path / "bento.yaml").is_file():
        said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        reason = said[-1].strip() if said else "it said nothing"
        raise PackagingError(f"bentoml build failed with exit code {done.returncode}: {reason}")


def _commit(root: Path) -> str | None:
    """Return the commit of the repository at that folder; None where files differ from it."""
    below = _git(root, "rev-parse", "--show-prefix")
    changes = _git(root, "status", "--porcelain")
    return _git(root, "rev-parse", "HEAD") if below == changes == "" else None


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(  # noqa: S603
            ["git", "-C", str(root), *arguments],  # noqa: S607
            capture_output=True,
            text=True,
        )
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
