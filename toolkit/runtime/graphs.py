"""A session's kernels recorded as CUDA graphs, one for each size of a batch."""

import ctypes
import mmap
import weakref
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit.extras import require_onnxruntime
from toolkit.runtime.providers import DTYPES, failure

GRAPH_OPTIONS: Mapping[str, str] = MappingProxyType({"enable_cuda_graph": "1"})
"""Options of the CUDA provider for a session whose kernels are recorded."""
PLAIN_OPTIONS: Mapping[str, str] = MappingProxyType({"cudnn_conv_algo_search": "HEURISTIC"})
"""For one whose kernels are not: a search takes time whenever the size changes."""
_CUDART = ("libcudart.so.13", "libcudart.so.12")


class Graphs:
    """Runs whole batches by replaying what was recorded when a size came first.

    Inputs and outputs of each size stay where they are on the card. ONNX Runtime keeps what it
    recorded for each thread: all runs are to come from one.

    Args:
        session: on CUDA, opened with `GRAPH_OPTIONS`.
        most: the largest size.
        device: where the inputs and outputs lie; the tests have no CUDA, and say `cpu`.

    Attributes:
        staging: where a batch is put; the card reads it from there by itself.
    """

    def __init__(self, session: Any, most: int, device: str = "cuda") -> None:
        self.staging = _pinned((most, *session.get_inputs()[0].shape[1:]))
        self._session = session
        self._device = device
        self._bound: dict[int, _Bound] = {}

    def run(self, size: int, names: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Return some outputs of the first X-rays in `staging`, as many as `size` says.

        Raises:
            ProviderError: ONNX Runtime failed, or cannot record the graph.
        """
        try:
            if size not in self._bound:
                self._bound[size] = _Bound(self._session, size, self._device)
            return self._bound[size].run(self.staging[:size], names)
        except Exception as error:
            raise failure(self._session, error) from error


class _Bound:
    """Inputs and outputs of one size, and the number of its graph."""

    def __init__(self, session: Any, size: int, device: str) -> None:
        onnxruntime = require_onnxruntime()
        make = onnxruntime.OrtValue.ortvalue_from_shape_and_type
        self._session = session
        self._binding, self._options = session.io_binding(), onnxruntime.RunOptions()
        self._options.add_run_config_entry("gpu_graph_id", str(size))
        (given,) = session.get_inputs()
        self._given = make([size, *given.shape[1:]], np.uint8, device, 0)
        self._binding.bind_ortvalue_input(given.name, self._given)
        self._taken = {}
        for each in session.get_outputs():
            dtype = np.dtype(DTYPES[each.type])
            self._taken[each.name] = make([size, *each.shape[1:]], dtype, device, 0)
            self._binding.bind_ortvalue_output(each.name, self._taken[each.name])

    def run(self, xrays: NDArray[np.uint8], names: Sequence[str]) -> dict[str, NDArray[Any]]:
        self._given.update_inplace(xrays)
        self._session.run_with_iobinding(self._binding, self._options)
        return {name: self._taken[name].numpy().copy() for name in names}


def _pinned(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return zeros that a card reads without a copy in between, where CUDA's runtime is loaded."""
    memory = np.frombuffer(mmap.mmap(-1, int(np.prod(shape))), np.uint8)
    for name in _CUDART:
        try:
            library = ctypes.CDLL(name)
            register, unregister = library.cudaHostRegister, library.cudaHostUnregister
        except (OSError, AttributeError):
            continue
        address = ctypes.c_void_p(memory.ctypes.data)
        if not register(address, ctypes.c_size_t(memory.nbytes), 0):
            # Else what lies at this address next would be read from the former pages.
            weakref.finalize(memory, unregister, address).atexit = False
        break
    return memory.reshape(shape)
