"""What is wrong with a trained model, whatever its export: told before it is exported."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from toolkit.model.manifest import Manifest
from toolkit.networks.base import Classifier
from toolkit.train.training import Training

# Of the other input's effect.
_FAINT = 0.01
_TRIED = 32
_SMALLEST_NORMAL = torch.finfo(torch.float32).tiny
_SMALLEST_NORMAL_BITS = 0x00800000


@dataclass(frozen=True)
class Finding:
    """One fault.

    Attributes:
        kind: `dead_input`, `faint_input`, `denormal`, `zero_layer`, `never_predicted` or
            `not_finite`.
        where: the input, layer or class.
        text: what it means, in a sentence.
    """

    kind: str
    where: str
    text: str


def health(classifier: Classifier, xrays: Tensor, record: Manifest) -> list[Finding]:
    """Return everything that is wrong with a network.

    Args:
        classifier: in evaluation mode.
        xrays: uint8 (N, size, size), two or more different ones to try its inputs on.
        record: its manifest, for the classes and the evaluation that it keeps.
    """
    return [
        *_weights(classifier.network),
        *_dead_inputs(classifier, xrays),
        *_never_predicted(record),
    ]


def training_health(training: Training, record: Manifest) -> list[Finding]:
    """Return what is wrong with what a training came to, tried on a few training X-rays."""
    indices = training.dataset.parts["train"][:_TRIED]
    classifier = copy.deepcopy(training.classifier).cpu().eval()
    return health(classifier, training.dataset.pixels[indices], record)


def _weights(network: nn.Module) -> Iterator[Finding]:
    for name, parameter in network.named_parameters():
        if not parameter.isfinite().all():
            yield Finding("not_finite", name, f"{name} holds NaN or infinity")
        share = float(denormal(parameter).double().mean())
        if share:
            yield Finding(
                "denormal",
                name,
                f"{share:.1%} of {name} are denormal floats, which cost a processor 25 to 40 "
                "times the time; they are set to zero on export",
            )
        if name.endswith("weight") and not parameter.abs().ge(_SMALLEST_NORMAL).any():
            yield Finding("zero_layer", name, f"every weight of {name} is zero or denormal")


@torch.no_grad()
def _dead_inputs(classifier: Classifier, xrays: Tensor) -> Iterator[Finding]:
    inputs, network = classifier.inputs(xrays), classifier.network
    logits = network(*inputs)
    others = torch.roll(torch.arange(len(xrays)), 1)
    effects = {}
    for place, spec in enumerate(classifier.definition.inputs):
        given = [each[others] if i == place else each for i, each in enumerate(inputs)]
        effects[spec.name] = float((network(*given) - logits).abs().mean())
    for name, effect in effects.items():
        if effect == 0:
            yield Finding(
                "dead_input",
                name,
                f"the input {name!r} has no effect on the output: with another X-ray's {name} "
                "every logit stays the same",
            )
        elif effect < _FAINT * max(effects.values()):
            yield Finding(
                "faint_input",
                name,
                f"the input {name!r} has next to no effect on the output: with another X-ray's "
                f"{name} the logits move by {effect:.2g} in the mean, and by "
                f"{max(effects.values()):.2g} with the other input's",
            )


def _never_predicted(record: Manifest) -> Iterator[Finding]:
    for part in ("val", "test"):
        evaluation = record.training.metrics.get(part)
        if not evaluation:
            continue
        matrix = evaluation["confusion_matrix"]
        for index, label in enumerate(record.labels.classes):
            if sum(matrix[index]) and not sum(row[index] for row in matrix):
                yield Finding(
                    "never_predicted",
                    label,
                    f"class {label!r} is never predicted on the part {part}, which has "
                    f"{sum(matrix[index])} of it",
                )
        return


def denormal(values: Tensor) -> Tensor:
    """Return which float32 values are denormal, as booleans of the same shape."""
    # On the bits: with denormals flushed, a comparison would take them for zero.
    bits = values.detach().contiguous().view(torch.int32) & 0x7FFFFFFF
    return (bits > 0) & (bits < _SMALLEST_NORMAL_BITS)
