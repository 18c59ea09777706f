"""ONNX Runtime's sessions, on the CPU or on CUDA."""

import os
from collections.abc import Mapping
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from types import MappingProxyType
from typing import Any

from toolkit.errors import ModelRefusedError, ProviderError
from toolkit.extras import GPU_FILES, require_onnxruntime
from toolkit.processes import cores

# TF32 would round the products to ten bits.
NO_TF32: Mapping[str, str] = MappingProxyType({"use_tf32": "0"})
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}

DTYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(uint8)": "uint8"}
"""NumPy's names of ONNX Runtime's types."""


def has_cuda() -> bool:
    """Return whether ONNX Runtime brings CUDA and the machine has its driver.

    Raises:
        MissingExtraError: ONNX Runtime is not installed, or twice.
    """
    built_in = PROVIDERS["cuda"] in require_onnxruntime().get_available_providers()
    return built_in and any(each.exists() for each in GPU_FILES)


def open_session(
    model: Path | bytes,
    provider: str,
    threads: int = 0,
    optimised: bool = True,
    cuda: Mapping[str, str] = NO_TF32,
) -> Any:
    """Return an ONNX Runtime InferenceSession.

    Args:
        model: the ONNX file, or its content.
        provider: `cpu`, `cuda`, or `auto` for CUDA where it can be had.
        threads: for one operator; 0 is one for each core that this process may use.
        optimised: whether ONNX Runtime may rewrite the graph before it runs it.
        cuda: options of the CUDA provider.

    Raises:
        ModelRefusedError: the file cannot be opened.
        ProviderError: `cuda` cannot be had, or no such provider is known.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    onnxruntime = require_onnxruntime()
    # What matters comes as an exception; the rest would mix with the command's own lines.
    onnxruntime.set_default_logger_severity(4)
    wanted = _providers(onnxruntime, provider, cuda)
    options = onnxruntime.SessionOptions()
    # By itself ONNX Runtime takes the machine's cores, whatever this process may use of them.
    may_use = cores()
    options.intra_op_num_threads = threads or (may_use if may_use < (os.cpu_count() or 1) else 0)
    options.log_severity_level = 3
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    what = "a graph" if isinstance(model, bytes) else str(model)
    try:
        session = onnxruntime.InferenceSession(
            model if isinstance(model, bytes) else what, options, providers=wanted
        )
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise ModelRefusedError(f"ONNX Runtime cannot open {what}: {reason}") from error
    if provider == "cuda" and session.get_providers()[0] != PROVIDERS["cuda"]:
        raise ProviderError(
            "CUDA was asked for and cannot be had: ONNX Runtime fell back to the CPU; check the "
            "driver and pip install 'toolkit[gpu]', or ask for cpu"
        )
    return session


def run_session(session: Any, names: list[str], feed: dict[str, Any]) -> list[Any]:
    """Return outputs of a session.

    Raises:
        ProviderError: ONNX Runtime failed.
    """
    try:
        values: list[Any] = session.run(names, feed)
    except Exception as error:
        raise failure(session, error) from error
    return values


def failure(session: Any, error: Exception) -> ProviderError:
    """Return what is said of an error that ONNX Runtime raised."""
    reason = str(error).partition("\n")[0]
    return ProviderError(f"ONNX Runtime failed on {session.get_providers()[0]}: {reason}")


def check_provider(provider: str) -> None:
    """Check that a provider is known, and that this ONNX Runtime has it.

    Raises:
        ProviderError: it is not, or has not.
    """
    if provider not in ("auto", *PROVIDERS):
        raise ProviderError(f"no provider is called {provider!r}: choose auto, cpu or cuda")
    built_in = require_onnxruntime().get_available_providers()
    if provider == "cuda" and PROVIDERS["cuda"] not in built_in:
        raise ProviderError(
            "CUDA was asked for and this ONNX Runtime has none: pip install 'toolkit[gpu]', or "
            "ask for cpu"
        )


def _providers(onnxruntime: Any, provider: str, options: Mapping[str, str]) -> list[Any]:
    check_provider(provider)
    if provider == "cpu" or (provider == "auto" and not has_cuda()):
        return [PROVIDERS["cpu"]]
    if hasattr(onnxruntime, "preload_dlls"):
        # It prints what it does not find, on stdout.
        with redirect_stdout(StringIO()):
            onnxruntime.preload_dlls()
    return [(PROVIDERS["cuda"], dict(options)), PROVIDERS["cpu"]]
