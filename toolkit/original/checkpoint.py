"""The study's own checkpoint, a pickled module or its state_dict, as weights of this network."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from toolkit.errors import CheckpointError
from toolkit.networks.study import IntermediarySpaceModel
from toolkit.original import archive, safetensors
from toolkit.original.archive import MAX_BYTES, StudyModule
from toolkit.original.opcodes import STUDY, quote
from toolkit.original.unwrapping import PARTS, unwrap
from toolkit.train.recipes import MAX_LAYER_SIZE

# What the study's final model has; a state_dict does not say.
ASSUMED_DROPOUT = 0.5
_DROPOUT_TOLERANCE = 1e-6
_MAX_LAYERS = 100
# What does not change what a layer gives.
_INDIFFERENT = ("training", "inplace")


@dataclass(frozen=True)
class OriginalModel:
    """What a file of the study holds, in this toolkit's terms.

    Attributes:
        state: the state_dict of `IntermediarySpaceModel`, float32; every bit as in the file, where
            that is of float32 too.
        layer_size: S, from the shapes.
        dropout: main dropout p, from the Dropout modules of `outputCombiner`.
        classes: C, from the shapes.
        sha256: of the file.
        notices: what the user should know, one line each.
    """

    state: dict[str, Tensor]
    layer_size: int
    dropout: float
    classes: int
    sha256: str
    notices: tuple[str, ...]


def read_original(path: Path) -> OriginalModel:
    """Read a file that `torch.save` wrote of the study's whole module, or a state_dict of it.

    The state_dict may be in safetensors, in a dict with more, and under a wrapper's names; numbers
    may be of 16, 32 or 64 bits. Nothing runs but what torch needs to make plain layers and tensors,
    and no CUDA device is needed.

    Raises:
        CheckpointError: missing, damaged, of another network, or with anything else in it; the
            message names what was refused.
    """
    try:
        content = _content(path)
        load = safetensors.load if safetensors.is_safetensors(content) else archive.load
        return _model(load(content), hashlib.sha256(content).hexdigest())
    except CheckpointError as error:
        raise CheckpointError(f"{path} is refused: {error}") from error


def _content(path: Path) -> bytes:
    if not path.is_file():
        raise CheckpointError("it is no file" if path.exists() else "there is no such file")
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise CheckpointError(f"it cannot be read: {error.strerror}") from error
    if len(content) > MAX_BYTES:
        raise CheckpointError(f"it has more than {MAX_BYTES >> 20} MiB")
    return content


def _model(root: Any, sha256: str) -> OriginalModel:
    root, ways = unwrap(root)
    if isinstance(root, StudyModule):
        layers = _layers_by_part(root)
        weights = {part: [_dict(layer, "_parameters") for layer in layers[part]] for part in PARTS}
        dropouts = {part: _dropouts(layers[part]) for part in PARTS}
        dropout, notices = max(dropouts["outputCombiner"], default=0.0), []
    elif isinstance(root, dict):
        layers, weights = {}, _weights_by_part(root)
        dropout = ASSUMED_DROPOUT
        notices = [
            f"the file holds weights alone: dropout is taken to be {ASSUMED_DROPOUT}, strides and "
            "paddings to be the study's"
        ]
    else:
        kind = type(root).__name__
        raise CheckpointError(f"it holds a {kind}, not {STUDY} or its state_dict")
    weights = {part: [found for found in weights[part] if found] for part in PARTS}
    ways += _converted(weights)
    if ways:
        notices.append(f"its weights are read {', '.join(ways)}")
    layer_size, classes = _sizes(weights["outputCombiner"])
    with torch.device("meta"):
        network = IntermediarySpaceModel(layer_size, dropout, classes)
    # The part that the sizes were read from comes first: a fault there is named there.
    for part in reversed(layers):
        _check_layers(part, layers[part], network)
        notices += _dropout_notices(part, dropouts[part], network.get_submodule(part))
    state = _state(weights, network)
    notices += [
        f"{name} holds NaN or infinite values"
        for name, tensor in state.items()
        if not tensor.isfinite().all()
    ]
    return OriginalModel(state, layer_size, dropout, classes, sha256, tuple(notices))


def _layers_by_part(root: nn.Module) -> dict[str, list[nn.Module]]:
    modules = _dict(root, "_modules")
    for part in PARTS:
        if part not in modules:
            raise CheckpointError(f"it has no part {part}")
    for name in (*modules, *_dict(root, "_parameters")):
        if name not in PARTS:
            raise CheckpointError(f"it has {quote(name)}, which is no part of this network")
    _check_hooks(root)
    return {part: list(_flat(modules[part], part)) for part in PARTS}


def _flat(root: Any, part: str) -> Iterator[nn.Module]:
    """Yield the layers within a part, in order, whatever containers they are in."""
    remaining = [root]
    for _ in range(_MAX_LAYERS):
        if not remaining:
            return
        module = remaining.pop()
        if not isinstance(module, nn.Module):
            raise CheckpointError(f"{part} is not made of layers")
        _check_hooks(module)
        children = _dict(module, "_modules").values()
        if type(module) not in (nn.Module, nn.Sequential, StudyModule):
            yield module
        elif _dict(module, "_parameters") or len(children) > _MAX_LAYERS:
            raise CheckpointError(f"{part} has more in it than layers")
        else:
            remaining += reversed(children)
    raise CheckpointError(f"{part} has more than {_MAX_LAYERS} layers")


def _check_hooks(module: nn.Module) -> None:
    if _dict(module, "_forward_hooks") or _dict(module, "_forward_pre_hooks"):
        raise CheckpointError("it has hooks, which change what a layer gives")


def _dict(module: nn.Module, name: str) -> dict[Any, Any]:
    # Through vars(): a hostile file can set any attribute or method of a module.
    value = vars(module).get(name)
    if not isinstance(value, dict):
        raise CheckpointError(f"one of its modules lacks {name}")
    return value


def _weights_by_part(root: dict[Any, Any]) -> dict[str, list[dict[str, Any]]]:
    layers: dict[str, dict[str, dict[str, Any]]] = {part: {} for part in PARTS}
    for key, value in root.items():
        part, _, rest = str(key).partition(".")
        layer, _, name = rest.rpartition(".")
        if part not in layers:
            raise CheckpointError(f"it has {quote(key)}, which is no weight of this network")
        layers[part].setdefault(layer, {})[name] = value
    return {part: list(layers[part].values()) for part in PARTS}


def _converted(weights: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Return what numbers are not float32 in the file, in words."""
    layers = (layer for part in PARTS for layer in weights[part])
    kinds = {each.dtype for layer in layers for each in layer.values() if isinstance(each, Tensor)}
    names = sorted(str(kind).removeprefix("torch.") for kind in kinds - {torch.float32})
    return [f"as float32, from {' and '.join(names)}"] if names else []


def _sizes(combiner: list[dict[str, Any]]) -> tuple[int, int]:
    """Return S and C: the last layer's weight is (C, S)."""
    last = combiner[-1].get("weight") if combiner else None
    if not isinstance(last, Tensor) or last.ndim != 2:
        raise CheckpointError("the last layer of its outputCombiner has no matrix of weights")
    classes, layer_size = last.shape
    if not (1 <= layer_size <= MAX_LAYER_SIZE and classes >= 1):
        raise CheckpointError(
            f"its layer size is {layer_size} and its classes are {classes}: both must be 1 or "
            f"more, the layer size at most {MAX_LAYER_SIZE}"
        )
    return layer_size, classes


def _dropouts(layers: Iterable[nn.Module]) -> list[float]:
    dropouts = [layer for layer in layers if isinstance(layer, nn.Dropout)]
    values: list[Any] = [vars(layer).get("p") for layer in dropouts]
    if any(type(value) not in (int, float) or not 0 <= value < 1 for value in values):
        raise CheckpointError("one of its Dropout modules has no p in [0, 1)")
    return [float(value) for value in values]


def _dropout_notices(part: str, found: list[float], expected: nn.Module) -> list[str]:
    ours = _dropouts(expected.children())
    if not found and not any(ours):
        return []
    pairs = zip(found, ours, strict=False)
    if len(found) == len(ours) and all(abs(a - b) <= _DROPOUT_TOLERANCE for a, b in pairs):
        return []
    there, here = (
        ", ".join(f"{value:g}" for value in values) or "none" for values in (found, ours)
    )
    return [
        f"the dropouts of {part} are {there} there, and {here} here: it matters to training alone"
    ]


def _check_layers(part: str, layers: list[nn.Module], network: IntermediarySpaceModel) -> None:
    """Check that a part computes what this network's does, dropout aside."""
    theirs, ours = (
        [layer for layer in several if not isinstance(layer, nn.Dropout)]
        for several in (layers, network.get_submodule(part).children())
    )
    for index, (found, needed) in enumerate(zip(theirs, ours, strict=False)):
        if difference := _difference(found, needed):
            raise CheckpointError(
                f"layer {index} of its {part}, without dropouts, has {difference} in a network "
                f"of layer size {network.layer_size}"
            )
    if len(theirs) != len(ours):
        raise CheckpointError(
            f"its {part} has {len(theirs)} layers without dropouts, this network's has {len(ours)}"
        )


def _difference(found: nn.Module, needed: nn.Module) -> str:
    """Return what makes two layers give different outputs beyond their weights, if anything."""
    if type(found) is not type(needed):
        return f"a {type(found).__name__} and not the {type(needed).__name__}"
    for name, ours in vars(needed).items():
        theirs = vars(found).get(name)
        if name[0] != "_" and name not in _INDIFFERENT and _number(theirs) != _number(ours):
            return f"{name}={quote(_number(theirs))} and not the {name}={_number(ours)}"
    return ""


def _number(value: Any) -> Any:
    """Return a setting, two equal numbers as one; None for what is no setting of a layer."""
    if type(value) is tuple and len(value) == 2 and all(type(part) is int for part in value):
        return value[0] if value[0] == value[1] else value
    return value if type(value) in (int, bool, str) else None


def _state(
    weights: dict[str, list[dict[str, Any]]], network: IntermediarySpaceModel
) -> dict[str, Tensor]:
    """Return the weights by this network's names, each checked against its shape."""
    state: dict[str, Tensor] = dict(network.state_dict())
    names = iter(state)
    for part in PARTS:
        layers = network.get_submodule(part).children()
        needed = sum(bool(list(layer.parameters())) for layer in layers)
        if len(weights[part]) != needed:
            raise CheckpointError(
                f"its {part} has {len(weights[part])} layers with weights, this network's has "
                f"{needed}"
            )
        for index, layer in enumerate(weights[part]):
            if layer.keys() != {"weight", "bias"}:
                raise CheckpointError(
                    f"layer {index} of those with weights in its {part} has "
                    f"{quote(', '.join(map(str, layer)))}, not weight and bias"
                )
            for kind in ("weight", "bias"):
                name = next(names)
                state[name] = _copy(name, layer[kind], state[name].shape, network)
    return state


def _copy(name: str, found: Any, shape: torch.Size, network: IntermediarySpaceModel) -> Tensor:
    if not isinstance(found, Tensor) or found.shape != shape:
        there = quote(tuple(found.shape)) if isinstance(found, Tensor) else "no tensor"
        raise CheckpointError(
            f"{name} is {there}, and {tuple(shape)} in a network of layer size "
            f"{network.layer_size} with {network.classes} classes"
        )
    if found.nbytes > found.untyped_storage().nbytes():
        raise CheckpointError(f"{name} reaches beyond its storage")
    plain = found.detach().resolve_neg()
    return plain.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
