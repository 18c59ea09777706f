"""What the layers of a network take and give while it runs as it always does."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

from torch import Tensor, nn


class LayerRun(NamedTuple):
    """One layer's run: its name, what it took and what it gave."""

    name: str
    taken: Tensor
    given: Tensor


@contextmanager
def recording(layers: Mapping[str, nn.Module]) -> Iterator[list[LayerRun]]:
    """Yield a list that gathers every run of the named layers, in their order, until the end.

    A run that takes or gives something else than one tensor is left out.
    """
    runs: list[LayerRun] = []

    # An exporter runs a layer that has two names by a stand-in, so the layer given is not asked.
    def record(name: str, _: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if inputs and isinstance(inputs[0], Tensor) and isinstance(output, Tensor):
            runs.append(LayerRun(name, inputs[0], output))

    handles = [layer.register_forward_hook(partial(record, name)) for name, layer in layers.items()]
    try:
        yield runs
    finally:
        for handle in handles:
            handle.remove()
