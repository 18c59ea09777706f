"""What ONNX Runtime can run on here. A process of its own: a broken CUDA library may end it.

`python -m toolkit.runtime.probe cuda|cpu` prints one JSON object: `active`, the providers of a
session, the one that runs it first; `cuda`, the CUDA version that ONNX Runtime was built for,
empty where CUDA was not tried. What ONNX Runtime and the loader say goes to stderr.
"""

import ctypes
import json
import os
import subprocess
import sys
from contextlib import redirect_stdout, suppress
from pathlib import Path

_PACKAGES = str(Path(__file__).resolve().parents[2])
_PROBE_S = 60.0
CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
# y = Identity(x), float32 (1,): opset 17, IR 8.
_GRAPH = bytes.fromhex(
    "08083a370a100a017812017922084964656e746974791201675a0f0a0178120a0a08080112040a020801"
    "620f0a0179120a0a08080112040a02080142021011"
)
# preload_dlls loads no libcuda, and does not say that cuDNN is missing: a convolution would.
_UNSAID = ("libcuda.so.1", "libcudnn.so.9")


def runs_on_cuda() -> bool:
    """Return whether a session runs on CUDA here, as a process of its own finds."""
    command = [sys.executable, "-m", "toolkit.runtime.probe", "cuda"]
    paths = os.pathsep.join([_PACKAGES, *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": paths, "ORT_DISABLE_TELEMETRY": "1"}
    with suppress(OSError, ValueError, subprocess.SubprocessError):
        done = subprocess.run(  # noqa: S603
            command, capture_output=True, check=True, timeout=_PROBE_S, env=environment
        )
        return bool(json.loads(done.stdout)["active"][0] == CUDA)
    return False


def main(asked: str) -> None:
    """Load what `asked`, cuda or cpu, needs, and say how it went."""
    import onnxruntime

    with_cuda = asked == "cuda" and CUDA in onnxruntime.get_available_providers()
    if with_cuda:
        with redirect_stdout(sys.stderr):
            onnxruntime.preload_dlls()
        for name in _UNSAID:
            try:
                ctypes.CDLL(name)
            except OSError as error:
                print(f"Failed to load {name}: {error}", file=sys.stderr)
    wanted = [CUDA, CPU] if with_cuda else [CPU]
    session = onnxruntime.InferenceSession(_GRAPH, providers=wanted)
    cuda = (onnxruntime.cuda_version or "unknown") if with_cuda else ""
    json.dump({"active": session.get_providers(), "cuda": cuda}, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1])
