"""What the layers of a network take and give while it runs as it always does."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
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
    names = {layer: name for name, layer in layers.items()}

    def begin(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        given = inputs[0] if inputs else None
        taken.append(kept(given) if isinstance(given, Tensor) else None)

    def record(layer: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        given = taken.pop()
        if given is not None and isinstance(output, Tensor):
            runs.append(LayerRun(names[layer], given, kept(output)))

    handles = [layer.register_forward_pre_hook(begin) for layer in names]
    handles += [layer.register_forward_hook(record) for layer in names]
    try:
        yield runs
    finally:
        for handle in handles:
            handle.remove()
