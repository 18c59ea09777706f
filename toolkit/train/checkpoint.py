"""Weights on disk: state_dicts, loaded without ever running what a file says."""

import io
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from toolkit.errors import CheckpointError
from toolkit.files import sha256, write_bytes
from toolkit.model.files import ModelFiles
from toolkit.model.manifest import Manifest
from toolkit.model.records import NetworkRecord
from toolkit.networks.base import Classifier, Network
from toolkit.networks.default import StudyNetwork
from toolkit.networks.loading import definition_of
from toolkit.original import safetensors
from toolkit.original.unwrapping import held, named_as


def save(state: dict[str, Any], path: Path) -> None:
    """Write tensors and plain values, whole or not at all.

    Raises:
        UsageError: the folder cannot be written.
    """
    # Into memory first: torch writes a file's name into it, and the same weights would have
    # another hash each time.
    content = io.BytesIO()
    torch.save(state, content)
    write_bytes(path, content.getvalue())


def require_state(path: Path) -> None:
    """Refuse to go on where no training has left its state.

    Raises:
        CheckpointError: there is none.
    """
    if not path.exists():
        raise CheckpointError(
            f"nothing to resume at {path}: start without --resume (a finished training leaves no "
            "such file)"
        )


def load(path: Path) -> dict[str, Any]:
    """Read what `save` wrote; nothing but tensors and plain values is ever constructed.

    Raises:
        CheckpointError: missing, corrupt, or with anything else in it.
    """
    _require_file(path)
    try:
        _require_stored(path)
        # What torch warns of here is refused, or does not matter.
        with warnings.catch_warnings(action="ignore"):
            state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"no checkpoint at {path}: train it with `toolkit train`") from None
    except PermissionError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path} is corrupt, or holds more than weights: refused") from error
    except Exception as error:  # damaged bytes make the parsers raise anything
        raise CheckpointError(f"{path} is corrupt: train again or restore it") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{path} does not hold a state_dict: train again or restore it")
    return state


def _require_file(path: Path) -> None:
    """Refuse a folder, and a pipe, which nothing may ever write to; what is missing passes."""
    if path.exists() and not path.is_file():
        raise CheckpointError(f"{path} is no file: name a file of weights")


def _require_stored(path: Path) -> None:
    """Refuse what becomes larger than the file as it is read: `save` compresses nothing."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise CheckpointError(f"{path} is compressed, which no checkpoint is: refused")
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise CheckpointError(f"{path} claims more bytes than it has: refused")


def load_network(
    path: Path, record: NetworkRecord, classes: int, definition: Network | None = None
) -> nn.Module:
    """Return the network of a manifest with the weights of `path`, in evaluation mode.

    Args:
        path: of the checkpoint.
        record: of the network.
        classes: how many there are.
        definition: of the network; the study's if not given.

    Raises:
        CheckpointError: missing, corrupt, or of another shape than the manifest says.
    """
    return _fitted(load(path), path, record, classes, definition)


def read_network(
    path: Path, record: NetworkRecord, classes: int, definition: Network
) -> tuple[nn.Module, list[str]]:
    """Return a network of one's own with weights as people save them, and how they were read.

    They may be safetensors, lie in a dict with more, have longer names, or be of 16 or 64 bits.

    Raises:
        CheckpointError: as `load_network` does.
    """
    network = definition.module(classes, **config_of(record))
    wanted = network.state_dict()
    weights, ways = read_weights(path)
    state, said = named_as(weights, wanted)
    others = {
        str(value.dtype).removeprefix("torch.")
        for name, value in state.items()
        if isinstance(value, Tensor) and name in wanted and value.dtype != wanted[name].dtype
    }
    if others:  # load_state_dict converts them
        said.append(f"as float32, from {' and '.join(sorted(others))}")
    return _fitted(state, path, record, classes, definition), [*ways, *said]


def read_weights(path: Path) -> tuple[dict[Any, Any], list[str]]:
    """Return weights as people save them, by their names there, and where they lay, in words.

    Raises:
        CheckpointError: missing, corrupt, or with more than weights in it.
    """
    root, ways = held(_read(path))
    if not isinstance(root, dict):
        raise CheckpointError(f"{path} does not hold a state_dict: save that alone")
    return root, ways


def _read(path: Path) -> dict[str, Any]:
    """Return what a file of weights holds, in either format."""
    _require_file(path)
    try:
        content = path.read_bytes()
        if safetensors.is_safetensors(content):
            return safetensors.load(content, safetensors.ALL)
    except OSError:
        pass  # the other reader says it
    except CheckpointError as error:
        raise CheckpointError(f"{path} is refused: {error}") from error
    return load(path)


def _fitted(
    state: dict[str, Any],
    path: Path,
    record: NetworkRecord,
    classes: int,
    definition: Network | None,
) -> nn.Module:
    """Return a network with these weights, in evaluation mode."""
    try:
        network = (definition or StudyNetwork()).module(classes, **config_of(record))
        network.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError, ValueError) as error:
        of = record.definition.source if record.definition else f"S = {record.layer_size}"
        raise CheckpointError(
            f"{path} does not fit the network of its manifest ({of}, {classes} classes): train "
            "again or restore it"
        ) from error
    return network.eval()


def load_trained(files: ModelFiles, record: Manifest, again: str | None = None) -> Classifier:
    """Return the trained network of a model with its preprocessing, in evaluation mode.

    Args:
        files: of the model.
        record: its manifest.
        again: another definition of it, where the user says so.

    Raises:
        CheckpointError: its checkpoint is missing, corrupt, or not the one of its manifest.
        DefinitionError: its definition is missing, changed, or does not run.
    """
    require_own(files.checkpoint, record.training.checkpoint_sha256, files)
    definition = definition_of(files, record, again).network
    classes = len(record.labels.classes)
    network = load_network(files.checkpoint, record.network, classes, definition)
    return Classifier(definition, network).eval()


def config_of(record: NetworkRecord) -> dict[str, Any]:
    """Return what a network of a manifest is made with, beside the number of classes."""
    if record.definition:
        return record.definition.config
    return {"layer_size": record.layer_size, "dropout": record.dropout}


def require_own(path: Path, digest: str, files: ModelFiles) -> None:
    """Make sure that a file is the one that the manifest of `files` speaks of.

    Raises:
        CheckpointError: it is missing, or its SHA-256 is not `digest`.
    """
    try:
        found = sha256(path)
    except OSError as error:
        raise CheckpointError(
            f"no checkpoint at {path}: train it with `toolkit train`, or restore it"
        ) from error
    if found != digest:
        raise CheckpointError(
            f"{path} is not the file of {files.manifest}: its SHA-256 differs; train again or "
            "restore it"
        )
