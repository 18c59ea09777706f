"""What the layers of a network take and give while it runs as it always does."""

from collections.abc import Callable, Iterator, Mapping
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
def recording(
    layers: Mapping[str, nn.Module], kept: Callable[[Tensor], Tensor] = lambda tensor: tensor
) -> Iterator[list[LayerRun]]:
    """Yield a list that gathers every run of the named layers, in their order, until the end.

    A run that takes or gives something else than one tensor is left out.

    Args:
        layers: by name.
        kept: what is kept of a tensor; itself if not given, as later layers may change it in place.
    """
    runs: list[LayerRun] = []
    taken: list[Tensor | None] = []

    def begin(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        given = inputs[0] if inputs else None
        taken.append(kept(given) if isinstance(given, Tensor) else None)

    # An exporter runs a layer that has two names by a stand-in, so the layer given is not asked.
    def record(name: str, _: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
        given = taken.pop()
        if given is not None and isinstance(output, Tensor):
            runs.append(LayerRun(name, given, kept(output)))

    handles = [each.register_forward_pre_hook(begin) for each in layers.values()]
    handles += [
        layer.register_forward_hook(partial(record, name)) for name, layer in layers.items()
    ]
    try:
        yield runs
    finally:
        for handle in handles:
            handle.remove()
