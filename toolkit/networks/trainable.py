"""Whether what a definition gives can be trained, kept, and made again from its weights."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parameter import is_lazy

from toolkit.errors import DefinitionError
from toolkit.networks.base import Classifier
from toolkit.networks.loading import place_of, running
from toolkit.networks.recording import recording

# Of the largest logit: far above what the order of a sum in float32 can move.
_ROUNDING = 1e-4


def check_weights(module: nn.Module, where: str) -> None:
    """Check that all weights are there, can be trained, and are all that is to be kept.

    Raises:
        DefinitionError: one is not.
    """
    for name, value in (*module.named_parameters(), *module.named_buffers()):
        if is_lazy(value):
            raise DefinitionError(
                f"{where}: {name} has no shape before it runs: give the layer its sizes, not a "
                "lazy one"
            )
    for name, weight in module.named_parameters():
        if weight.dtype != torch.float32:
            raise DefinitionError(f"{where}: the weight {name} is {dtype_of(weight)}, not float32")
    for name, value in module.state_dict().items():
        if not isinstance(value, Tensor):
            raise DefinitionError(
                f"{where}: {name} in its state_dict is {type(value).__name__}, no tensor: a "
                "checkpoint keeps tensors alone"
            )


def check_again(classifier: Classifier, xrays: Tensor, make: Callable[[], nn.Module]) -> None:
    """Check that network and preprocessing are the same when they are made again.

    Args:
        classifier: in evaluation mode.
        xrays: to compare them on.
        make: makes the network again.

    Raises:
        DefinitionError: they are not.
    """
    network = classifier.definition
    where = place_of(network, "module")
    with running(None, f"{where} fails"):
        again = make()
        if {*map(id, again.parameters())} & {*map(id, make().parameters())}:
            raise DefinitionError(f"{where} gives the same weights again: make new ones each time")
        again.load_state_dict(classifier.network.state_dict())
    other = Classifier(network, again).eval()
    inputs = classifier.inputs(xrays)
    for spec, first, second in zip(network.inputs, inputs, other.inputs(xrays), strict=True):
        if not equal(first, second):
            raise DefinitionError(
                f"{place_of(network, 'preprocessing')} makes another {spec.name!r} each time that "
                "it is called: draw nothing at random"
            )
    if not equal(again(*inputs), classifier.network(*inputs)):
        raise DefinitionError(
            f"{where} gives another network each time, though with the same weights: what it draws "
            "at random must be a parameter or a buffer, which are kept"
        )


def check_training(classifier: Classifier, xrays: Tensor, classes: int) -> None:
    """Check that a network gives logits in training too, and gradients.

    Args:
        classifier: whose network may be changed.
        xrays: uint8, two or more.
        classes: of the data.

    Raises:
        DefinitionError: it does not.
    """
    where = place_of(classifier.network, "forward")
    with torch.enable_grad():
        with running(None, f"{where} fails in training"):
            logits: Any = classifier.train().logits(xrays)
        shape = (len(xrays), classes)
        if not isinstance(logits, Tensor) or logits.shape != shape:
            raise DefinitionError(
                f"{where} gives {described(logits)} in training, not logits, float32 {shape}, as "
                "in eval(): leave out what only training has"
            )
        if not logits.requires_grad:
            raise DefinitionError(f"{where}: no weight can be learned: none has a gradient")
        with running(None, f"{where} cannot be trained"):
            functional.cross_entropy(logits, torch.arange(len(xrays)) % classes).backward()  # type: ignore[no-untyped-call]


def check_optional(classifier: Classifier, xrays: Tensor) -> None:
    """Check `quick_features`, `fast`, `maps` and `branches`, where a definition has them.

    Raises:
        DefinitionError: one does not give what it should.
    """
    network: Any = classifier.definition
    inputs, logits = classifier.inputs(xrays), classifier(xrays)
    for member in ("quick_features", "fast"):
        if not hasattr(network, member):
            continue
        where = place_of(network, member)
        with running(None, f"{where} fails"):
            found = (
                network.fast(classifier)(xrays) if member == "fast" else classifier.logits(xrays)
            )
        if not isinstance(found, Tensor) or not equal(found, logits):
            raise DefinitionError(f"{where} does not come to the logits that forward gives")
    with recording(classifier.layers()) as runs:
        classifier.network(*inputs)
    maps = {run.name for run in runs if run.given.ndim == 4 and len(run.given) == len(xrays)}
    for group in getattr(network, "maps", None) or ():
        for name in [group] if isinstance(group, str) or not group else group:
            if isinstance(group, str) or name not in maps:
                raise DefinitionError(
                    f"{place_of(network)}: maps has {name!r}: give groups of names of layers that "
                    "give maps, (N, C, H, W)"
                )
    if hasattr(network, "branches"):
        where = place_of(network, "branches")
        with running(None, f"{where} fails"):
            named = [
                name for name, low, high in network.branches(classifier.preprocessing).values()
            ]
        for name in named:
            if not isinstance(getattr(classifier.network, name, None), nn.Sequential):
                raise DefinitionError(
                    f"{where} names {name!r}, which is no Sequential of the network"
                )


def equal(one: Tensor, other: Tensor, rounding: float = _ROUNDING) -> bool:
    """Return whether two tensors are the same, up to a share of their largest value."""
    if one.shape != other.shape:
        return False
    largest = max(1.0, float(other.double().abs().max()))
    return bool((one.double() - other.double()).abs().max() <= rounding * largest)


def dtype_of(value: Tensor) -> str:
    """Return a tensor's dtype in a word, such as `float32`."""
    return str(value.dtype).removeprefix("torch.")


def described(value: Any) -> str:
    """Return what a value is: a tensor's dtype and shape, or the name of its class."""
    if isinstance(value, Tensor):
        return f"{dtype_of(value)} {tuple(value.shape)}"
    return type(value).__name__
