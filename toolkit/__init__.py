"""From graded X-rays to a served model, proven equal on the way.

What is named here is the public face; importing it imports nothing else. Each part is imported
when it is first used, so a client of a service needs neither ONNX Runtime nor PyTorch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from toolkit.client import Client
    from toolkit.errors import ToolkitError
    from toolkit.model.equivalence import TensorSpec
    from toolkit.model.manifest import Manifest
    from toolkit.model.manifest import load as load_manifest
    from toolkit.networks.base import Network
    from toolkit.runtime.session import Predictor, open_model
    from toolkit.xray.reading import read_xray

__version__ = "0.1.0"
__all__ = [
    "Client",
    "Manifest",
    "Network",
    "Predictor",
    "TensorSpec",
    "ToolkitError",
    "__version__",
    "load_manifest",
    "open_model",
    "read_xray",
]
_PLACES = {
    "Client": "toolkit.client:Client",
    "Manifest": "toolkit.model.manifest:Manifest",
    "Network": "toolkit.networks.base:Network",
    "Predictor": "toolkit.runtime.session:Predictor",
    "TensorSpec": "toolkit.model.equivalence:TensorSpec",
    "ToolkitError": "toolkit.errors:ToolkitError",
    "load_manifest": "toolkit.model.manifest:load",
    "open_model": "toolkit.runtime.session:open_model",
    "read_xray": "toolkit.xray.reading:read_xray",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _PLACES[name].partition(":")
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return __all__
