"""Whether a definition can work: told in one line, with its place, before anything is trained."""

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from toolkit.errors import DefinitionError
from toolkit.model.equivalence import TensorSpec
from toolkit.networks.base import CHANNELS, LARGEST, SMALLEST, Classifier, Network, shape_of
from toolkit.networks.loading import place_of, running
from toolkit.networks.trainable import (
    check_again,
    check_optional,
    check_training,
    check_weights,
    described,
    dtype_of,
    equal,
)

RESERVED = ("xray", "logits", "probabilities", "novelty")
_DTYPES = ("float32", "uint8")
_TRIED = 3
# Between two runs of the same input, which may differ in their alignment in memory only.
_REPEATED = 1e-6


def check(network: Network, classes: int, config: dict[str, Any]) -> None:
    """Make sure that a network can be trained, kept, exported and proven.

    It is made and run on noise; what it gives must fit what it says of itself, come from its
    inputs, each X-ray's from its own pixels alone, and be the same again, made again too. It
    must be possible to follow a gradient through it in training.

    Args:
        network: the definition.
        classes: of the data.
        config: what the module is made with.

    Raises:
        DefinitionError: it cannot; the message says where and why.
    """
    _check_declaration(network)
    with _undisturbed():
        xrays = _noise(network)
        with running(None, f"{place_of(network, 'preprocessing')} fails"):
            preprocessing = network.preprocessing()
        with running(None, f"{place_of(network, 'module')} fails"):
            module = network.module(classes, **config)
        for made, what in ((preprocessing, "preprocessing"), (module, "module")):
            if not isinstance(made, nn.Module):
                raise DefinitionError(
                    f"{place_of(network, what)} gives {type(made).__name__}, not a torch.nn.Module"
                )
        check_weights(module, place_of(network, "module"))
        classifier = Classifier(network, _livened(module), preprocessing).eval()
        inputs = _check_preprocessing(classifier, xrays)
        _check_module(classifier, inputs, classes)
        _check_answers(classifier, xrays)
        _check_effects(classifier, inputs)
        check_again(classifier, xrays, lambda: network.module(classes, **config))
        check_optional(classifier, xrays)
        _check_export(classifier, xrays)
        check_training(classifier, xrays, classes)


def _check_declaration(network: Network) -> None:
    where = place_of(network)

    def refuse(what: str) -> DefinitionError:
        return DefinitionError(f"{where}: {what}")

    if type(network.size) is not int or not SMALLEST <= network.size <= LARGEST:
        raise refuse(f"size is {network.size!r}: give a number from {SMALLEST} to {LARGEST}")
    channels = getattr(network, "channels", 1)
    if channels not in CHANNELS:
        raise refuse(f"channels is {channels!r}: give 1 for grey, 3 for colour")
    if not network.inputs or not all(isinstance(each, TensorSpec) for each in network.inputs):
        raise refuse("inputs is not a tuple of one TensorSpec or more")
    for spec in network.inputs:
        fixed = all(type(size) is int and size > 0 for size in spec.shape[1:])
        if spec.shape[:1] != ("batch",) or not fixed or spec.dtype not in _DTYPES:
            raise refuse(
                f"the input {spec.name!r} is {spec.dtype} {spec.shape}: give {' or '.join(_DTYPES)}"
                ' and a shape such as ("batch", 1, 32, 32)'
            )
    names = [*(spec.name for spec in network.inputs), *network.views]
    for name in names:
        if not name.isidentifier() or name in RESERVED or names.count(name) > 1:
            raise refuse(f"{name!r} cannot name an input or a view: it is taken, or no identifier")


def _check_preprocessing(classifier: Classifier, xrays: Tensor) -> tuple[Tensor, ...]:
    network = classifier.definition
    where = place_of(classifier.preprocessing, "forward")
    side = (len(xrays), network.size, network.size)
    before = xrays.clone()
    for name in network.views:
        if not hasattr(classifier.preprocessing, name):
            raise DefinitionError(
                f"{place_of(classifier.preprocessing)} has no method {name}, which is in views"
            )
        with running(None):
            view = getattr(classifier.preprocessing, name)(xrays)
        if not isinstance(view, Tensor) or view.dtype != torch.uint8 or view.shape != side:
            raise DefinitionError(
                f"{place_of(classifier.preprocessing, name)} gives {described(view)}: a view is "
                f"uint8 {side} of {tuple(xrays.shape)}"
            )
    with running(None):
        found = classifier.inputs(xrays)
    if not torch.equal(before, xrays):
        raise DefinitionError(f"{where} changes the X-rays that it is given: change a copy")
    if len(found) != len(network.inputs):
        raise DefinitionError(
            f"{where} gives {len(found)} tensors, inputs has {len(network.inputs)}"
        )
    for spec, value in zip(network.inputs, found, strict=True):
        shape = (len(xrays), *spec.shape[1:])
        if not isinstance(value, Tensor) or value.shape != shape or dtype_of(value) != spec.dtype:
            raise DefinitionError(
                f"{where} gives {described(value)} for {spec.name!r}, inputs says {spec.dtype} "
                f"{shape}"
            )
        if not value.isfinite().all():
            raise DefinitionError(f"{where} gives NaN or infinity for {spec.name!r}")
    return found


def _check_module(classifier: Classifier, inputs: tuple[Tensor, ...], classes: int) -> None:
    where = place_of(classifier.network, "forward")
    before = [each.clone() for each in inputs]
    with running(None, f"{where} does not take what inputs says"):
        found = classifier.network(*inputs)
    if not all(map(torch.equal, before, inputs)):
        raise DefinitionError(f"{where} changes the inputs that it is given: change a copy")
    shape = (len(inputs[0]), classes)
    if not isinstance(found, Tensor) or found.shape != shape or found.dtype != torch.float32:
        raise DefinitionError(f"{where} gives {described(found)}, not logits, float32 {shape}")
    if not found.isfinite().all():
        raise DefinitionError(f"{where} gives NaN or infinity")
    if found.ge(0).all() and equal(found.sum(dim=1), torch.ones(len(found))):
        raise DefinitionError(f"{where} gives probabilities: give logits, without softmax")
    if classifier.has_features:
        with running(None):
            network: Any = classifier.network
            features = network.features(*inputs)
            joined = classifier.joined(features)
        if len(features) != len(inputs) or any(each.ndim != 2 for each in features):
            raise DefinitionError(
                f"{place_of(classifier.network, 'features')} does not give a tensor (N, F) for "
                f"each of {len(inputs)} inputs"
            )
        if not equal(joined, found):
            raise DefinitionError(
                f"{place_of(classifier.network, 'joined')} does not give what forward does"
            )


def _check_answers(classifier: Classifier, xrays: Tensor) -> None:
    """Check that nothing depends on the other X-rays, nor on chance."""
    network, together = classifier.definition, classifier.inputs(xrays)
    for spec, first, second in zip(network.inputs, together, classifier.inputs(xrays), strict=True):
        if not torch.equal(first, second):
            raise DefinitionError(
                f"{place_of(classifier.preprocessing, 'forward')} gives another {spec.name!r} each "
                "time: draw nothing at random"
            )
    logits = classifier.network(*together)
    if not equal(logits, classifier.network(*together), _REPEATED):
        raise DefinitionError(
            f"{place_of(classifier.network, 'forward')} gives other logits each time in eval(): "
            "draw nothing at random there, as functional.dropout does without `self.training`"
        )
    for place in range(len(xrays)):
        alone = classifier.inputs(xrays[place : place + 1])
        for spec, one, several in zip(network.inputs, alone, together, strict=True):
            if not equal(one[0], several[place]):
                raise DefinitionError(
                    f"{place_of(classifier.preprocessing, 'forward')} makes {spec.name!r} of an "
                    "X-ray depend on the others in its batch"
                )
        if not equal(classifier.network(*alone)[0], logits[place]):
            raise DefinitionError(
                f"{place_of(classifier.network, 'forward')} makes the logits of an X-ray depend on "
                "the others in its batch, in eval()"
            )


def _check_effects(classifier: Classifier, inputs: tuple[Tensor, ...]) -> None:
    logits = classifier.network(*inputs)
    for place, spec in enumerate(classifier.definition.inputs):
        others = [each.roll(1, 0) if i == place else each for i, each in enumerate(inputs)]
        if torch.equal(classifier.network(*others), logits):
            raise DefinitionError(
                f"{place_of(classifier.network, 'forward')}: the input {spec.name!r} has no effect "
                "on the logits"
            )


def _check_export(classifier: Classifier, xrays: Tensor) -> None:
    batch = torch.export.Dim("batch", min=1)
    where = place_of(classifier.network, "forward")
    with running(None, "cannot be exported", where), warnings.catch_warnings(action="ignore"):
        torch.export.export(classifier, (xrays[:2],), dynamic_shapes=({0: batch},), strict=False)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Leave the generator of random numbers as it was, and compute no gradients."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        yield


def _noise(network: Network) -> Tensor:
    shape = (_TRIED, *shape_of(network))
    return torch.randint(0, 256, shape, dtype=torch.uint8)


def _livened(module: nn.Module) -> nn.Module:
    """Return a copy none of whose weights are all zero: a last layer may begin so."""
    lively = copy.deepcopy(module)
    for parameter in lively.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return lively
