"""The study's own checkpoint, a pickled module or its state_dict, as weights of this network."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from toolkit.errors import CheckpointError
from toolkit.networks.study import IntermediarySpaceModel
from toolkit.original.inert import MODEL, Record, StoredTensor, shown
from toolkit.original.torchfile import MAX_BYTES, TorchFile

PARTS = ("imagesClassifier", "edgesClassifier", "outputCombiner")
MAX_LAYER_SIZE = 256
# What the study's final model has; a state_dict does not say.
ASSUMED_DROPOUT = 0.5
_DROPOUT_TOLERANCE = 1e-6
_MAX_LAYERS = 100
_CONTAINERS = ("Module", "Sequential")
# What changes a layer's output, beyond its weights.
_SETTINGS = {
    "Conv2d": (
        *("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation"),
        *("groups", "padding_mode"),
    ),
    "MaxPool2d": ("kernel_size", "stride", "padding", "dilation", "ceil_mode"),
    "Flatten": ("start_dim", "end_dim"),
    "Linear": ("in_features", "out_features"),
    "ReLU": (),
}


@dataclass(frozen=True)
class ForeignModel:
    """What a file of the study holds, in this toolkit's terms.

    Attributes:
        state: the state_dict of `IntermediarySpaceModel`, float32, every bit as in the file.
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


@dataclass(frozen=True)
class _Layer:
    """One layer of a part; `kind` is None where a state_dict does not tell."""

    kind: str | None
    settings: dict[Any, Any]
    weights: dict[Any, Any]


def read_foreign(path: Path) -> ForeignModel:
    """Read a file that `torch.save` wrote of the study's whole module, or of its state_dict.

    Nothing that the file names is constructed or run, and no CUDA device is needed.

    Raises:
        CheckpointError: missing, damaged, of another network, or with anything else in it; the
            message names what was refused.
    """
    try:
        content = _content(path)
        file = TorchFile(content)
        return _model(file, file.load(), hashlib.sha256(content).hexdigest())
    except CheckpointError as error:
        raise CheckpointError(f"{path} is refused: {error}") from error


def _content(path: Path) -> bytes:
    if not path.is_file():
        raise CheckpointError("there is no such file")
    try:
        with path.open("rb") as stream:
            return stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise CheckpointError(f"it cannot be read: {error.strerror}") from error


def _model(file: TorchFile, root: Any, sha256: str) -> ForeignModel:
    notices = []
    if isinstance(root, Record) and root.name == MODEL:
        parts = _parts_of_module(root)
        dropouts = {name: _dropouts(layers) for name, layers in parts.items()}
        dropout = max(dropouts["outputCombiner"], default=0.0)
    elif isinstance(root, dict):
        parts, dropouts, dropout = _parts_of_state(root), {}, ASSUMED_DROPOUT
        notices.append(
            f"the file holds weights alone: dropout is taken to be {ASSUMED_DROPOUT}, strides and "
            "paddings to be the study's"
        )
    else:
        name = root.name if isinstance(root, Record) else f"a {type(root).__name__}"
        raise CheckpointError(f"it holds {name}, not {MODEL} or its state_dict")
    layer_size, classes = _sizes(parts["outputCombiner"])
    with torch.device("meta"):
        network = IntermediarySpaceModel(layer_size, dropout, classes)
    # The part that the sizes were read from comes first: a fault there is named there.
    for name in reversed(list(dropouts)):
        _check_layers(name, parts[name], network)
        notices += _dropout_notice(name, dropouts[name], network.get_submodule(name))
    state = _state(file, parts, network)
    notices += [
        f"{name} holds NaN or infinite values"
        for name, tensor in state.items()
        if not tensor.isfinite().all()
    ]
    return ForeignModel(state, layer_size, dropout, classes, sha256, tuple(notices))


def _parts_of_module(root: Record) -> dict[str, list[_Layer]]:
    modules = _dict(root.state, "_modules")
    lacking = [name for name in PARTS if name not in modules]
    beyond = [*(each for each in modules if each not in PARTS), *_dict(root.state, "_parameters")]
    if lacking:
        raise CheckpointError(f"it has no part {lacking[0]}")
    if beyond:
        raise CheckpointError(f"it has {shown(beyond[0])}, which is no part of this network")
    _check_hooks(root)
    return {name: list(_flat(modules[name], name)) for name in PARTS}


def _flat(root: Any, part: str) -> Iterator[_Layer]:
    """Yield the layers within a part, in order, whatever containers they are in."""
    remaining = [root]
    for _ in range(_MAX_LAYERS):
        if not remaining:
            return
        module = remaining.pop()
        if not isinstance(module, Record):
            raise CheckpointError(f"{part} is not made of layers")
        _check_hooks(module)
        kind = module.name.rpartition(".")[2]
        parameters = _dict(module.state, "_parameters")
        children = _dict(module.state, "_modules").values()
        if kind not in _CONTAINERS:
            yield _Layer(kind, module.state, parameters)
        elif parameters or len(children) > _MAX_LAYERS:
            raise CheckpointError(f"{part} has more in it than layers")
        else:
            remaining += reversed(children)
    raise CheckpointError(f"{part} has more than {_MAX_LAYERS} layers")


def _check_hooks(module: Record) -> None:
    for kind in ("_forward_hooks", "_forward_pre_hooks"):
        if module.state.get(kind):
            raise CheckpointError("it has hooks, which change what a layer gives")


def _dict(state: dict[Any, Any], key: str) -> dict[Any, Any]:
    value = state.get(key)
    if not isinstance(value, dict):
        raise CheckpointError(f"one of its modules lacks {key}")
    return value


def _parts_of_state(root: dict[Any, Any]) -> dict[str, list[_Layer]]:
    found: dict[str, dict[str, dict[Any, Any]]] = {name: {} for name in PARTS}
    for key, value in root.items():
        part, _, rest = str(key).partition(".")
        layer, _, kind = rest.rpartition(".")
        if part not in found:
            raise CheckpointError(f"it has {shown(key)}, which is no weight of this network")
        found[part].setdefault(layer, {})[kind] = value
    return {
        name: [_Layer(None, {}, weights) for weights in layers.values()]
        for name, layers in found.items()
    }


def _sizes(combiner: list[_Layer]) -> tuple[int, int]:
    """Return S and C: the last layer's weight is (C, S)."""
    weighted = [layer for layer in combiner if layer.weights]
    last = weighted[-1].weights.get("weight") if weighted else None
    if not isinstance(last, StoredTensor) or len(last.size) != 2:
        raise CheckpointError("the last layer of its outputCombiner has no matrix of weights")
    classes, layer_size = last.size
    if not (1 <= layer_size <= MAX_LAYER_SIZE and classes >= 1):
        raise CheckpointError(
            f"its layer size is {layer_size} and its classes are {classes}: both must be 1 or "
            f"more, the layer size at most {MAX_LAYER_SIZE}"
        )
    return layer_size, classes


def _dropouts(layers: list[_Layer]) -> list[float]:
    values: list[Any] = [layer.settings.get("p") for layer in layers if layer.kind == "Dropout"]
    if any(type(value) not in (int, float) or not 0 <= value < 1 for value in values):
        raise CheckpointError("one of its Dropout modules has no p in [0, 1)")
    return [float(value) for value in values]


def _dropout_notice(part: str, found: list[float], expected: nn.Module) -> list[str]:
    ours = [each.p for each in expected.modules() if isinstance(each, nn.Dropout)]
    if not found and not any(ours):
        return []
    pairs = zip(found, ours, strict=False)
    if len(found) == len(ours) and all(abs(a - b) <= _DROPOUT_TOLERANCE for a, b in pairs):
        return []
    return [
        f"the dropouts of {part} are {_listed(found)} there, and {_listed(ours)} here: it matters "
        "to training alone"
    ]


def _listed(values: list[float]) -> str:
    return ", ".join(f"{value:g}" for value in values) or "none"


def _check_layers(part: str, layers: list[_Layer], network: IntermediarySpaceModel) -> None:
    """Check that a part computes what this network's does, dropout aside."""
    ours = [
        _described(type(each).__name__, vars(each))
        for each in network.get_submodule(part).children()
        if not isinstance(each, nn.Dropout)
    ]
    theirs = [
        _described(layer.kind or "", layer.settings) for layer in layers if layer.kind != "Dropout"
    ]
    for index, (found, needed) in enumerate(zip(theirs, ours, strict=False)):
        if found != needed:
            raise CheckpointError(
                f"layer {index} of its {part}, without dropouts, is {found} where this network "
                f"of layer size {network.layer_size} has {needed}"
            )
    if len(theirs) != len(ours):
        raise CheckpointError(
            f"its {part} has {len(theirs)} layers without dropouts, this network's has {len(ours)}"
        )


def _described(kind: str, settings: dict[Any, Any]) -> str:
    values = (f"{name}={_plain(settings.get(name))}" for name in _SETTINGS.get(kind, ()))
    return f"{kind}({', '.join(values)})"


def _plain(value: Any) -> str:
    """Return a setting in words; a pair of equal numbers is one number."""
    if type(value) is tuple and len(value) == 2:
        first, second = map(_plain, value) if all(type(n) is int for n in value) else ("?", "?")
        return first if first == second else f"{first}x{second}"
    return shown(value) if type(value) in (int, bool, str) else "?"


def _state(
    file: TorchFile, parts: dict[str, list[_Layer]], network: IntermediarySpaceModel
) -> dict[str, Tensor]:
    """Return the weights by this network's names, each checked against its shape."""
    found = []
    for part in PARTS:
        weighted = [layer.weights for layer in parts[part] if layer.weights]
        needed = [
            each for each in network.get_submodule(part).children() if list(each.parameters())
        ]
        if len(weighted) != len(needed):
            raise CheckpointError(
                f"its {part} has {len(weighted)} layers with weights, this network's has "
                f"{len(needed)}"
            )
        for index, weights in enumerate(weighted):
            if weights.keys() != {"weight", "bias"}:
                raise CheckpointError(
                    f"layer {index} of those with weights in its {part} has "
                    f"{shown(', '.join(map(str, weights)))}, not weight and bias"
                )
            found += [weights["weight"], weights["bias"]]
    state = network.state_dict()
    for (name, ours), tensor in zip(state.items(), found, strict=True):
        if not isinstance(tensor, StoredTensor) or tensor.size != tuple(ours.shape):
            size = "no tensor" if not isinstance(tensor, StoredTensor) else shown(tensor.size)
            raise CheckpointError(
                f"{name} is {size}, and {tuple(ours.shape)} in a network of layer size "
                f"{network.layer_size} with {network.classes} classes"
            )
        state[name] = _tensor(file, tensor)
    return dict(state)


def _tensor(file: TorchFile, stored: StoredTensor) -> Tensor:
    numbers = torch.frombuffer(bytearray(file.bytes_of(stored.storage)), dtype=torch.float32)
    view = numbers.as_strided(stored.size, stored.stride, stored.offset)
    return view.clone(memory_format=torch.contiguous_format)
