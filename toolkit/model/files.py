"""Where a model's files lie: every artifact of NAME in one folder, told apart by its suffix."""

import re
from dataclasses import dataclass
from pathlib import Path

from toolkit.errors import UsageError

DEFAULT_NAME = "model_saved"
_PREVIOUS = ".previous"
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}(\.previous)*")
_NEW_NAME = re.compile(r"[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*")
_LONGEST_NEW = 50
_RESERVED = re.compile(
    r"\.((pipeline|explainer|scope|resume|unfinished|equivalence|golden|torchscript|int8|fp16)(\.|$)|(json|pt|pt2|onnx|html|network\.py)$)"
)
SUFFIXES = {
    "manifest": ".json",
    "checkpoint": ".pt",
    "scope": ".scope.pt",
    "definition": ".network.py",
    "network": ".onnx",
    "pipeline": ".pipeline.onnx",
    "explainer": ".explainer.onnx",
    "golden": ".golden.npz",
    "torchscript": ".torchscript.pt",
    "pt2": ".pt2",
    "fp16": ".fp16.pipeline.onnx",
    "int8": ".int8.pipeline.onnx",
    "report": ".equivalence.json",
    "page": ".equivalence.html",
}
LOWER = ("fp16", "int8")
"""Precisions lower than float32; each is a kind of file, a pipeline graph."""
PIPELINES = ("pipeline", *LOWER)
"""The kinds that take X-rays and give probabilities with ONNX Runtime."""


def checked_name(name: str) -> str:
    """Return `name` if it can name a model's files.

    Raises:
        UsageError: it is empty, has a slash, starts with a dot, or ends like an artifact.
    """
    if not _NAME.fullmatch(name) or ".." in name:
        path = Path(name)
        stem = path.name.removesuffix(SUFFIXES.get(kind_of(name) or "", ""))
        meant = f"; {stem} in a folder is given as {stem} --models {path.parent}"
        raise UsageError(
            f"{name!r} cannot name a model: use letters, digits, '.', '_' and '-', no folder"
            f"{meant if '/' in name and _NAME.fullmatch(stem) else ''}"
        )
    if _RESERVED.search(name):
        raise UsageError(f"{name!r} cannot name a model: that ending is an artifact's own")
    return name


def checked_new_name(name: str) -> str:
    """Return `name` if a new model can have it: not that under which a former one is kept.

    Raises:
        UsageError: it is such a name, or no image can have it.
    """
    if name.endswith(_PREVIOUS):
        raise UsageError(
            f"{name!r} cannot name a new model: under that name the former "
            f"{name.removesuffix(_PREVIOUS)} is kept"
        )
    return checked_image_name(name)


def checked_image_name(name: str) -> str:
    """Return `name` if the image of a model can be called by it.

    Raises:
        UsageError: it cannot name a model, or no registry of images takes it.
    """
    checked_name(name)
    if not _NEW_NAME.fullmatch(name) or len(name) > _LONGEST_NEW:
        raise UsageError(
            f"{name!r} cannot name a new model, as no image can be called so: give at most "
            f"{_LONGEST_NEW} small letters and digits, with single '.', '_' and '-' between them"
        )
    return name


def names_in(folder: Path) -> list[str]:
    """Return the names of the models whose manifests lie in a folder, sorted."""
    names = (
        path.name.removesuffix(SUFFIXES["manifest"])
        for path in folder.glob(f"*{SUFFIXES['manifest']}")
        if kind_of(path.name) == "manifest"
    )
    return sorted(name for name in names if _NAME.fullmatch(name) and not _RESERVED.search(name))


def served_name(folder: Path) -> str:
    """Return the model that is served where none is named: the only one in the folder, else ours.

    What a training left of a former model is not counted.
    """
    names = [name for name in names_in(folder) if not name.endswith(_PREVIOUS)]
    return names[0] if len(names) == 1 else DEFAULT_NAME


@dataclass(frozen=True)
class ModelFiles:
    """The paths of one model's files in `folder`, whether or not they exist."""

    folder: Path
    name: str

    def __post_init__(self) -> None:
        checked_name(self.name)

    def present(self) -> dict[str, Path]:
        """Return the files that exist, by kind: a key of `SUFFIXES`, `resume` or `unfinished`."""
        paths = {kind: self.path(kind) for kind in SUFFIXES}
        paths |= {"resume": self.resume, "unfinished": self.unfinished}
        return {kind: path for kind, path in paths.items() if path.exists()}

    def path(self, kind: str) -> Path:
        """Return the path of one kind of file: a key of `SUFFIXES`."""
        return self.folder / f"{self.name}{SUFFIXES[kind]}"

    @property
    def manifest(self) -> Path:
        """What the model is: NAME.json."""
        return self.path("manifest")

    @property
    def checkpoint(self) -> Path:
        """The trained weights: NAME.pt."""
        return self.path("checkpoint")

    @property
    def resume(self) -> Path:
        """The state of an unfinished training: NAME.resume.pt."""
        return self.folder / f"{self.name}.resume.pt"

    @property
    def unfinished(self) -> Path:
        """A checkpoint that was in the way and had no manifest: NAME.unfinished.pt."""
        return self.folder / f"{self.name}.unfinished.pt"

    @property
    def previous(self) -> "ModelFiles":
        """The files that a new training over this name leaves behind: NAME.previous.*."""
        return ModelFiles(self.folder, f"{self.name}{_PREVIOUS}")


def located(name_or_path: str, models: Path) -> ModelFiles:
    """Return the files of a model given by its name in `models` or by the path of one of them.

    Raises:
        UsageError: it is neither a name nor a path with one of the suffixes.
    """
    path, kind = Path(name_or_path), kind_of(name_or_path)
    if kind is None:
        return ModelFiles(models, name_or_path)
    return ModelFiles(path.parent, path.name.removesuffix(SUFFIXES[kind]))


def kind_of(name_or_path: str) -> str | None:
    """Return which kind of file a path is of, a key of `SUFFIXES`; None of a name."""
    kinds = [kind for kind, suffix in SUFFIXES.items() if name_or_path.endswith(suffix)]
    return max(kinds, key=lambda kind: len(SUFFIXES[kind]), default=None)
