"""A network's definition from the file or the module that a user names."""

import hashlib
import importlib
import importlib.util
import inspect
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from toolkit.errors import DefinitionError, ToolkitError, is_out_of_memory, printable
from toolkit.model.files import ModelFiles
from toolkit.model.manifest import Manifest
from toolkit.model.records import DefinitionRecord
from toolkit.networks.base import Network
from toolkit.networks.default import StudyNetwork

_NEEDED = ("size", "inputs", "views", "preprocessing", "module")
_LONGEST = 300


@dataclass(frozen=True)
class Definition:
    """A network's definition, and what it was read from.

    Attributes:
        network: as `toolkit.networks.base.Network` asks for it.
        source: `FILE.py:CLASS`, or `PACKAGE.MODULE:CLASS`; empty of the study's network.
        content: of its file.
    """

    network: Network
    source: str = ""
    content: bytes = b""

    @property
    def sha256(self) -> str:
        """Of its file."""
        return hashlib.sha256(self.content).hexdigest()

    def record(self, config: dict[str, Any]) -> DefinitionRecord | None:
        """Return what a manifest keeps of it; None of the study's network."""
        if not self.source:
            return None
        channels = getattr(self.network, "channels", 1)
        return DefinitionRecord(self.source, self.sha256, config, self.network.size, channels)


STUDY = Definition(StudyNetwork())
"""The definition that is taken where no other is named."""


def load(source: str | None) -> Definition:
    """Return the definition that `--network` names: its code runs here.

    Args:
        source: `FILE.py`, `FILE.py:CLASS`, or `PACKAGE.MODULE:CLASS` of what can be imported; None
            for the study's.

    Raises:
        DefinitionError: it cannot be read or run, or has no such class; the message names the
            line.
    """
    if source is None:
        return STUDY
    place, _, name = source.rpartition(":") if ":" in source else (source, "", "")
    if not place.endswith(".py"):
        return _from_module(place or source, name)
    return _from_file(Path(place), Path(place).name, name)


def definition_of(files: ModelFiles, record: Manifest, again: str | None = None) -> Definition:
    """Return the definition of a model's network: from its manifest, or as it was named again.

    Args:
        files: of the model; NAME.network.py is what its code is read from.
        record: its manifest.
        again: what `load` takes, where the user says that another one is meant.

    Raises:
        DefinitionError: the file is missing or changed, or its code does not run.
    """
    if again:
        return load(again)
    known = record.network.definition
    if known is None:
        return Definition(StudyNetwork(record.preprocessing))
    place, _, name = known.source.rpartition(":")
    if place.endswith(".py"):
        return _from_file(files.path("definition"), Path(place).name, name, known.sha256)
    return _from_module(place, name, known.sha256)


def _from_file(path: Path, called: str, name: str, sha256: str = "") -> Definition:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DefinitionError(f"no network's definition at {path}: {error.strerror}") from error
    digest = hashlib.sha256(content).hexdigest()
    _require_same(str(path), digest, sha256)
    module = ModuleType(f"toolkit_network_{digest[:16]}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # dataclasses and inspect look there
    with running(path):
        exec(compile(content, str(path), "exec"), vars(module))  # noqa: S102
    found = _chosen(module, str(path), name)
    return Definition(_made(found, path), f"{called}:{type_of(found).__name__}", content)


def _from_module(place: str, name: str, sha256: str = "") -> Definition:
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    if not place or importlib.util.find_spec(place.partition(".")[0]) is None:
        raise DefinitionError(
            f"no network's definition at {place!r}: give FILE.py, FILE.py:CLASS, or "
            "PACKAGE.MODULE:CLASS of what can be imported here"
        )
    with running(None):
        module = importlib.import_module(place)
    path = Path(inspect.getsourcefile(module) or "")
    content = path.read_bytes()
    _require_same(str(path), hashlib.sha256(content).hexdigest(), sha256)
    found = _chosen(module, place, name)
    return Definition(_made(found, path), f"{place}:{type_of(found).__name__}", content)


def _require_same(path: str, found: str, sha256: str) -> None:
    if sha256 and found != sha256:
        raise DefinitionError(
            f"{path} was changed since the model was made: its SHA-256 is {found[:12]}..., the "
            f"manifest's {sha256[:12]}...; restore it, or say with --network {path} that it is "
            "meant"
        )


def _chosen(module: ModuleType, where: str, name: str) -> Any:
    """Return the class, or the object, that defines a network."""
    if name:
        if not hasattr(module, name):
            raise DefinitionError(f"{where} has no {name!r}: name its class, as in {where}:CLASS")
        return getattr(module, name)
    found = [
        each
        for each in vars(module).values()
        if inspect.isclass(each)
        and each.__module__ == module.__name__
        and all(hasattr(each, needed) for needed in ("preprocessing", "module"))
    ]
    if len(found) != 1:
        names = ", ".join(each.__name__ for each in found)
        raise DefinitionError(
            f"{where} has several networks, {names}: choose one, as in {where}:{found[0].__name__}"
            if found
            else f"{where} defines no network: no class has {', '.join(_NEEDED)}; `toolkit init "
            "FILE.py` writes one to begin with"
        )
    return found[0]


def _made(found: Any, path: Path) -> Network:
    with running(path):
        network: Any = found() if inspect.isclass(found) else found
    missing = [each for each in _NEEDED if not hasattr(network, each)]
    if missing:
        raise DefinitionError(
            f"{place_of(network)} has no {', '.join(missing)}: a network has {', '.join(_NEEDED)}"
        )
    result: Network = network
    return result


def type_of(found: Any) -> type:
    """Return a class as it is, and the class of anything else."""
    return found if inspect.isclass(found) else type(found)


def place_of(thing: Any, member: str = "") -> str:
    """Return where a definition, or a member of it, stands: FILE:LINE and its name."""
    kind = type_of(thing)
    name = f"{kind.__name__}.{member}" if member else kind.__name__
    try:
        code = getattr(kind, member) if member else kind
        _, line = inspect.getsourcelines(code)
        return f"{Path(inspect.getsourcefile(kind) or '').name}:{line} {name}"
    except (OSError, TypeError, AttributeError):
        return name


@contextmanager
def running(path: Path | None, what: str = "", where: str = "") -> Iterator[None]:
    """Turn whatever a definition's code raises into a line that names its place.

    Args:
        path: of the file whose lines are to be named; None for any that is not PyTorch's.
        what: was done, such as `cannot be exported`.
        where: that is, if no line is known.

    Raises:
        DefinitionError: the block raised something.
        MemoryError: no memory was left for it.
    """
    try:
        yield
    except ToolkitError:
        raise
    except Exception as error:
        place = _line_of(error, path) or where
        if is_out_of_memory(error):
            raise MemoryError(f"{place}: {printable(error, _LONGEST)}") from error
        first: BaseException = error
        while first.__cause__ is not None and not isinstance(first.__cause__, ToolkitError):
            first = first.__cause__
        found = f"{type(first).__name__}: {printable(first, _LONGEST)}"
        raise DefinitionError(": ".join(filter(None, (place, what, found)))) from error


def _line_of(error: BaseException | None, path: Path | None) -> str:
    """Return the innermost line of a user's file that an exception came by, with its text."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{Path(error.filename).name}:{error.lineno}"
    while error is not None:
        for frame in reversed(traceback.extract_tb(error.__traceback__)):
            theirs = frame.filename == str(path) if path else _is_theirs(frame.filename)
            if theirs:
                return f"{Path(frame.filename).name}:{frame.lineno} `{frame.line}`"
        error = error.__cause__ or error.__context__
    return ""


def _is_theirs(filename: str) -> bool:
    ours = str(Path(__file__).parents[2])
    python = sysconfig.get_path("stdlib")
    own = filename.startswith((f"{ours}/toolkit/", f"{ours}/export/", f"{python}/"))
    return not own and "site-packages" not in filename and Path(filename).is_file()
