"""What the toolkit needs to know of a network: what a definition gives, and how it is run."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from toolkit.model.equivalence import TensorSpec
from toolkit.networks.recording import recording
from toolkit.xray.limits import xray_shape

SMALLEST, LARGEST = 16, 1024
"""Sides of an X-ray that a network may take, pixels."""
CHANNELS = (1, 3)
# What PyTorch calls the modules within a layer that compute its weights.
_PARAMETRIZATIONS = "parametrizations"


class Network(Protocol):
    """A network and its preprocessing, as somebody defines them; nothing is to be inherited.

    Attributes:
        size: side of the square X-ray, pixels, 16 to 1024.
        inputs: what the module takes, in its order, such as
            `TensorSpec("grey", "float32", ("batch", 1, 32, 32))`.
        views: pictures of the X-ray that are shown beside it and covered for an explanation;
            the preprocessing has a method of each name. It may be empty.

    A definition may have as well:

    - `channels`: 3 for X-rays in colour, which are uint8 (N, size, size, 3); 1 if not given.
    - `mirror`: whether a mirrored X-ray is as good as another one; False if not given.
    - `recipe()`: settings of the training that differ from the default, by name.
    - `space(trial)`: the `config` of a trial, from Optuna's trial.
    - `fast(classifier)`: an equal, faster `Classifier`, which is exported in its place.
    - `quick_features(module, preprocessing, xray)`: what `features` gives, sooner.
    - `branches(preprocessing)`: for each input the name of the module that alone takes it, and
      the smallest and largest value of each of its elements, float32 (C, H, W) each.
    - `maps`: groups of names of layers whose maps tell whether a picture is like the X-rays of
      the training; the last maps of each resolution if not given.

    Examples:
        >>> from pathlib import Path
        >>> import torch
        >>> from toolkit import Network, TensorSpec
        >>> class Grey(torch.nn.Module):
        ...     def forward(self, xray):
        ...         return xray.float().unsqueeze(1) / 255
        >>> class Linear:
        ...     size, views = 32, ()
        ...     inputs = (TensorSpec("grey", "float32", ("batch", 1, 32, 32)),)
        ...     def preprocessing(self):
        ...         return Grey()
        ...     def module(self, classes):
        ...         return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(1024, classes))
        >>> network: Network = Linear()
    """

    @property
    def size(self) -> int:
        """Side of an X-ray."""
        ...

    @property
    def inputs(self) -> Sequence[TensorSpec]:
        """What the module takes."""
        ...

    @property
    def views(self) -> Sequence[str]:
        """The names of the views."""
        ...

    def preprocessing(self) -> nn.Module:
        """Return what makes the inputs: `forward(xray, *views)`, compiled into what is served.

        It takes X-rays, uint8 (N, size, size), and then each view; it gives one tensor for each
        of `inputs`. A method for each view takes the X-rays and gives uint8 (N, size, size).
        """
        ...

    def module(self, classes: int, *arguments: Any, **config: Any) -> nn.Module:
        """Return the network, untrained: `forward(*inputs)` gives logits, float32 (N, classes).

        One that has `features(*inputs)`, a tensor (N, F) for each input, and `joined(*features)`,
        the logits, is trained with a loss for each input besides.
        """
        ...


class Classifier(nn.Module):
    """X-rays to logits: the preprocessing and the module of a definition.

    Args:
        definition: what they are of.
        network: its module.
        preprocessing: its preprocessing; a new one if not given.
    """

    def __init__(
        self, definition: Network, network: nn.Module, preprocessing: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.definition = definition
        self.network = network
        self.preprocessing = preprocessing or definition.preprocessing()

    def forward(self, xray: Tensor) -> Tensor:
        """Return logits, float32 (N, C), of X-rays, uint8 (N, size, size) or with channels."""
        logits: Tensor = self.network(*self.inputs(xray))
        return logits

    def train(self, mode: bool = True) -> Self:
        """Put the network into training mode; the preprocessing is the same in either."""
        super().train(mode)
        self.preprocessing.eval()
        return self

    def views(self, xray: Tensor) -> tuple[Tensor, ...]:
        """Return each view of X-rays, uint8 (N, size, size)."""
        return tuple(getattr(self.preprocessing, name)(xray) for name in self.definition.views)

    def inputs(self, xray: Tensor) -> tuple[Tensor, ...]:
        """Return what the network takes of X-rays."""
        return self.inputs_of(xray, self.views(xray))

    def inputs_of(self, xray: Tensor, views: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return what the network takes of X-rays and of views, which may be changed ones."""
        found = self.preprocessing(xray, *views)
        return (found,) if isinstance(found, Tensor) else tuple(found)

    @property
    def has_features(self) -> bool:
        """Whether the network gives features for each input."""
        return hasattr(self.network, "features") and hasattr(self.network, "joined")

    def features(self, xray: Tensor) -> tuple[Tensor, ...]:
        """Return what the network makes of each input alone, float32 (N, F) each."""
        network: Any = self.network
        if quick := getattr(self.definition, "quick_features", None):
            return tuple(quick(network, self.preprocessing, xray))
        return tuple(network.features(*self.inputs(xray)))

    def logits(self, xray: Tensor) -> Tensor:
        """Return what `forward` does, up to rounding, by the quickest way."""
        if not self.has_features:
            return Classifier.forward(self, xray)
        return self.joined(self.features(xray))

    def joined(self, features: Sequence[Tensor]) -> Tensor:
        """Return the logits, float32 (N, C), of what `features` gives."""
        network: Any = self.network
        logits: Tensor = network.joined(*features)
        return logits

    def with_parts(self, network: nn.Module, preprocessing: nn.Module) -> Self:
        """Return one of the same kind with another network and another preprocessing."""
        changed = copy.copy(self)
        changed._modules = dict(self._modules)
        changed.network, changed.preprocessing = network, preprocessing
        return changed.train(self.training)

    def xray_shape(self) -> tuple[int, ...]:
        """Return the shape of one X-ray: (size, size), or (size, size, 3) in colour."""
        return shape_of(self.definition)

    def layers(self) -> Mapping[str, nn.Module]:
        """Return the network's layers: the modules that have none within them, by name.

        What computes a layer's weight, as in `weight_norm`, is part of that layer.
        """
        return {
            name: layer
            for name, layer in self.network.named_modules()
            if _PARAMETRIZATIONS not in name.split(".")
            and all(child == _PARAMETRIZATIONS for child, _ in layer.named_children())
        }

    @torch.no_grad()
    def hidden_weights(self, xray: Tensor) -> list[Tensor]:
        """Return the weights of the convolutions and linear layers that run before the last one.

        Args:
            xray: one or more to run them on.
        """
        layers = {
            name: layer
            for name, layer in self.layers().items()
            if isinstance(layer, nn.Conv2d | nn.Linear)
            # One that is computed anew each time is no weight to step.
            and isinstance(layer.weight, nn.Parameter)
            and layer.weight.requires_grad
        }
        was = self.training
        with recording(layers) as runs:
            self.eval()(xray)
        self.train(was)
        weights = [layers[run.name].weight for run in runs]
        # By identity: one layer may run twice, and two may share their weight.
        return list({id(each): each for each in weights if each is not weights[-1]}.values())


def shape_of(definition: Network) -> tuple[int, ...]:
    """Return the shape of one X-ray: (size, size), or (size, size, 3) in colour."""
    return xray_shape(definition.size, getattr(definition, "channels", 1))


def may_mirror(definition: Network) -> bool:
    """Return whether a mirrored X-ray is as good as another one."""
    return bool(getattr(definition, "mirror", False))


def initialise(network: nn.Module) -> None:
    """Draw weights that keep the activations' variance from layer to layer, and no biases.

    He et al., "Delving deep into rectifiers", ICCV 2015. PyTorch's own first weights let it
    shrink to a few thousandths over the layers of a branch. The last layer gets variance 1 / n.
    """
    layers = [each for each in network.modules() if isinstance(each, nn.Conv2d | nn.Linear)]
    for layer in layers:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    for last in layers[-1:]:
        nn.init.kaiming_normal_(last.weight, nonlinearity="linear")


def place(network: nn.Module, device: torch.device) -> nn.Module:
    """Put a network on a device, where convolutions run sooner with their channels last."""
    network.to(device)
    for weight in network.parameters():
        if weight.dim() == 4:  # others have no such layout
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)
    return network


def parameters_of(network: nn.Module) -> int:
    """Return how many numbers of a network are trained; what batch norm gathers is not."""
    return sum(each.numel() for each in network.parameters())


def device_of(module: nn.Module) -> torch.device:
    """Return where a module's weights lie."""
    found = next((each.device for each in module.parameters()), None)
    return found or torch.device("cpu")
