"""Runs X-rays through a session, in batches of the sizes that its provider is good at.

ONNX Runtime's CUDA convolutions make new plans whenever the batch's size changes, which takes 10 to
250 ms each time. So a session on CUDA is only ever given a few sizes, each recorded once as a CUDA
graph; a batch that falls short of one is filled up.
"""

import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from toolkit.errors import ProviderError
from toolkit.runtime.graphs import GRAPH_OPTIONS, PLAIN_OPTIONS, Graphs
from toolkit.runtime.providers import DTYPES, NO_TF32, PROVIDERS, open_session, run_session

INPUT = "xray"
SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
"""The sizes of a batch on CUDA."""

Xrays = Sequence[NDArray[np.uint8]] | NDArray[np.uint8]
"""Of one side each: uint8 (N, S, S), or N times (S, S)."""
Outputs = dict[str, NDArray[Any]]
"""Outputs of a graph by name, each (N, ...)."""
Shapes = Mapping[str, tuple[str, Sequence[int]]]
"""The dtype and shape of `xray` and of each output, of one X-ray."""
Then = Callable[[Outputs | Exception], None]


class Engine:
    """What runs X-rays.

    Attributes:
        provider: the execution provider that runs them.
        outputs: names of what it gives.
        shapes: of an X-ray and of each output.
        words: what the file says of itself, by name.
        sizes: of the batches that it runs; empty where any is as good.
        together: how many X-rays that wait are best run as one batch.
        is_elsewhere: whether another process runs them, and counts them.
        waiting_since: when the oldest of what is elsewhere went there, by the machine's clock;
            None where nothing is.
        has_ended: whether what ran them elsewhere is gone.
    """

    sizes: tuple[int, ...] = ()
    together = 1
    is_elsewhere = False
    waiting_since: float | None = None
    has_ended = False

    def __init__(self, provider: str, shapes: Shapes, words: dict[str, str]) -> None:
        self.provider = provider
        self.outputs = [name for name in shapes if name != INPUT]
        self.shapes = shapes
        self.words = words

    def run(self, names: Sequence[str], xrays: Xrays) -> Outputs:
        """Return some outputs of X-rays.

        Raises:
            ProviderError: the provider failed.
        """
        raise NotImplementedError

    def submit(self, names: Sequence[str], xrays: Xrays, then: Then) -> None:
        """Call `then` with some outputs of X-rays, here and now or when they have come.

        Raises:
            ProviderError: the provider failed; then `then` is not called.
        """
        then(self.run(names, xrays))

    def padding(self, count: int) -> int:
        """Return how many X-rays are run besides, where so many are to be run."""
        return sum(size - some for size, some in self.batches(count))

    def batches(self, count: int) -> list[tuple[int, int]]:
        """Return the size of each batch that so many X-rays are run in, and how many it holds."""
        if not self.sizes:
            return [(count, count)]
        most = self.sizes[-1]
        rest = [most] * (count // most) + [count % most] * bool(count % most)
        return [(next(size for size in self.sizes if size >= some), some) for some in rest]


def joined(names: Sequence[str], parts: list[Outputs]) -> Outputs:
    """Return some outputs of the X-rays of all parts, in order; of one part without a copy."""
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in names}


class AnySize(Engine):
    """A session that is given every batch as it is."""

    # With a few X-rays together, a core's caches keep the network's weights between them.
    together = 4

    def __init__(self, session: Any) -> None:
        super().__init__(*_about(session))
        self._session = session

    def run(self, names: Sequence[str], xrays: Xrays) -> Outputs:
        """Return some outputs of X-rays."""
        if not isinstance(xrays, np.ndarray):
            xrays = xrays[0][None] if len(xrays) == 1 else np.stack(xrays)
        values = run_session(self._session, list(names), {INPUT: xrays})
        return dict(zip(names, values, strict=True))


class Batches(Protocol):
    """A session that runs whole batches.

    Attributes:
        staging: uint8 (the largest size, S, S): where a batch is put.
    """

    staging: NDArray[np.uint8]

    def run(self, size: int, names: Sequence[str]) -> Outputs:
        """Return some outputs of the first X-rays in `staging`, as many as `size` says."""
        ...


class Plain:
    """Runs whole batches as they come.

    Args:
        session: ONNX Runtime's.
        most: the largest size.
    """

    def __init__(self, session: Any, most: int) -> None:
        self.staging = np.zeros((most, *session.get_inputs()[0].shape[1:]), np.uint8)
        self._session = session

    def run(self, size: int, names: Sequence[str]) -> Outputs:
        """Return some outputs of the first X-rays in `staging`."""
        values = run_session(self._session, list(names), {INPUT: self.staging[:size]})
        return dict(zip(names, values, strict=True))


class FixedSizes(Engine):
    """A session that is given batches of a few sizes only; what is short is filled up.

    Args:
        session: ONNX Runtime's, for what it says of itself.
        batches: what runs them.
        otherwise: opens what runs them where `batches` fails; None to fail as well.
        sizes: in ascending order.
    """

    together = 32

    def __init__(
        self,
        session: Any,
        batches: Batches,
        otherwise: Callable[[], Batches] | None = None,
        sizes: tuple[int, ...] = SIZES,
    ) -> None:
        super().__init__(*_about(session))
        self.sizes = sizes
        self._batches = batches
        self._otherwise = otherwise
        self._recorded: set[int] = set()
        # One batch lies in the staging memory at a time.
        self._lock = threading.Lock()

    def run(self, names: Sequence[str], xrays: Xrays) -> Outputs:
        """Return some outputs of X-rays."""
        with self._lock:
            parts, start = [], 0
            for size, some in self.batches(len(xrays)) or [(self.sizes[0], 0)]:
                found = self._run(size, names, xrays[start : start + some])
                parts.append({name: value[:some] for name, value in found.items()})
                start += some
        return joined(names, parts)

    def _run(self, size: int, names: Sequence[str], xrays: Xrays) -> Outputs:
        self._put(xrays)
        try:
            found = self._batches.run(size, names)
        except ProviderError as error:
            if self._otherwise is None or size in self._recorded:
                raise
            print(f"warning: {error}; running without CUDA graphs", file=sys.stderr, flush=True)
            self._batches, self._otherwise = self._otherwise(), None
            self._put(xrays)
            found = self._batches.run(size, names)
        self._recorded.add(size)
        return found

    def _put(self, xrays: Xrays) -> None:
        staging = self._batches.staging
        for place, xray in enumerate(xrays):
            staging[place] = xray


def open_engine(path: Path, provider: str, threads: int = 0) -> Engine:
    """Open a pipeline graph.

    Args:
        path: the file.
        provider: `cpu`, `cuda`, or `auto` for CUDA where it can be had.
        threads: for one operator on the CPU; 0 is one for each core that this process may use.

    Raises:
        ModelRefusedError: the file cannot be opened.
        ProviderError: the provider cannot be had.
    """
    return _open(path, provider, threads, AnySize)


def open_fixed_sizes(path: Path, provider: str, threads: int = 0) -> Engine:
    """Open a pipeline graph as `open_engine` does, in fixed sizes whatever the provider is."""
    return _open(path, provider, threads, lambda each: FixedSizes(each, Plain(each, SIZES[-1])))


def _open(path: Path, provider: str, threads: int, on_cpu: Callable[[Any], Engine]) -> Engine:
    session = open_session(path, provider, threads, cuda={**NO_TF32, **GRAPH_OPTIONS})
    if session.get_providers()[0] != PROVIDERS["cuda"]:
        return on_cpu(session)

    def without() -> Batches:
        plain = open_session(path, "cuda", threads, cuda={**NO_TF32, **PLAIN_OPTIONS})
        return Plain(plain, SIZES[-1])

    return FixedSizes(session, Graphs(session, SIZES[-1]), without)


def _about(session: Any) -> tuple[str, Shapes, dict[str, str]]:
    """Return the provider of a session, the shapes of what it takes and gives, its own words."""
    tensors = [*session.get_inputs(), *session.get_outputs()]
    shapes = {
        each.name: (DTYPES.get(each.type, each.type), tuple(each.shape[1:])) for each in tensors
    }
    return session.get_providers()[0], shapes, session.get_modelmeta().custom_metadata_map
