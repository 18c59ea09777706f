"""What ONNX Runtime can run on here. A process of its own: a broken CUDA library may end it.

`python -m toolkit.runtime.probe cuda|cpu` prints one JSON object: `available`, the providers that
are built in; `active`, those of a session, the one that runs it first; `needed`, for each shared
library of the CUDA provider null, or what the loader says of it. What ONNX Runtime says itself
goes to stderr.
"""

import ctypes
import json
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

from toolkit.runtime.elf import needed_libraries

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
# y = Identity(x), float32 (1,): opset 17, IR 8.
_GRAPH = bytes.fromhex(
    "08083a370a100a017812017922084964656e746974791201675a0f0a0178120a0a08080112040a020801"
    "620f0a0179120a0a08080112040a02080142021011"
)
_PREFIXES = ("libcu", "libnv")


def main(asked: str) -> None:
    """Load what `asked`, cuda or cpu, needs, and say how it went."""
    import onnxruntime

    available = onnxruntime.get_available_providers()
    needed: dict[str, str | None] = {}
    with_cuda = asked == "cuda" and CUDA in available
    if with_cuda:
        if hasattr(onnxruntime, "preload_dlls"):
            with redirect_stdout(StringIO()):
                onnxruntime.preload_dlls()
        library = Path(onnxruntime.__file__).parent / "capi" / "libonnxruntime_providers_cuda.so"
        needed = {name: _loaded(name) for name in _cuda_libraries(library)}
    wanted = [CUDA, CPU] if with_cuda else [CPU]
    session = onnxruntime.InferenceSession(_GRAPH, providers=wanted)
    found = {"available": available, "active": session.get_providers(), "needed": needed}
    json.dump(found, sys.stdout)


def _cuda_libraries(library: Path) -> list[str]:
    names = [each for each in needed_libraries(library) if each.startswith(_PREFIXES)]
    # It is opened at the first convolution, so the header need not name it.
    if not any(each.startswith("libcudnn.") for each in names):
        names.append("libcudnn.so.9")
    return names


def _loaded(name: str) -> str | None:
    try:
        ctypes.CDLL(name)
    except OSError as error:
        return str(error)
    return None


if __name__ == "__main__":
    main(sys.argv[1])
