"""Opens ONNX Runtime on a file that carries its proof, and runs X-rays through it."""

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from toolkit.errors import ModelRefusedError, ProviderError
from toolkit.extras import GPU_FILES, require_onnxruntime
from toolkit.files import sha256
from toolkit.model import manifest
from toolkit.model.answer import Answer, Meaning, meaning_of
from toolkit.model.artifacts import check_equivalence, check_words
from toolkit.model.files import PIPELINES, ModelFiles, kind_of, located
from toolkit.processes import cores
from toolkit.xray.reading import decode

if TYPE_CHECKING:
    from toolkit.runtime.occlusion import PicturesModel

# TF32 would round the products to ten bits.
NO_TF32: Mapping[str, str] = MappingProxyType({"use_tf32": "0"})
ANSWERED = ("logits", "probabilities", "novelty")
"""What of a pipeline's outputs an answer is made of; the others are views."""
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


@dataclass(frozen=True)
class Prediction:
    """What the model says of a batch.

    Attributes:
        logits: float32 (N, C), as the network gives them.
        probabilities: float32 (N, C).
        novelty: how unlike the training X-rays each is, float32 (N,); None where the graph does
            not give it.
    """

    logits: NDArray[np.float32]
    probabilities: NDArray[np.float32]
    novelty: NDArray[np.float32] | None


class Predictor:
    """A pipeline graph, open and ready.

    Attributes:
        name: of the model.
        meaning: of its probabilities.
        sha256: of the pipeline file.
        outputs: names of what it gives.
        shape: of one X-ray: (size, size), or (size, size, 3) in colour.
        provider: the execution provider that runs it.
        words: what the file says of itself, by name.

    Examples:
        >>> from pathlib import Path
        >>> from toolkit import open_model, read_xray
        >>> predictor = open_model(Path("saved_models"), "model_saved", "cpu")
        >>> answer = predictor.answer(read_xray(Path("knee.png")))
        >>> answer.label, answer.class_index
        ('severe', 3)
    """

    def __init__(
        self,
        name: str,
        meaning: Meaning,
        path: Path,
        digest: str,
        provider: str,
        threads: int = 0,
    ) -> None:
        self.name = name
        self.meaning = meaning
        self.sha256 = digest
        self._session = open_session(path, provider, threads)
        self.outputs = [each.name for each in self._session.get_outputs()]
        self._answered = [name for name in self.outputs if name in ANSWERED]
        self.shape: tuple[int, ...] = tuple(self._session.get_inputs()[0].shape[1:])
        self.provider: str = self._session.get_providers()[0]
        self.words: dict[str, str] = self._session.get_modelmeta().custom_metadata_map

    def run(self, names: list[str], xrays: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        """Return some of `outputs` of X-rays, uint8 (N, size, size), each (N, ...).

        Raises:
            ProviderError: ONNX Runtime failed.
        """
        return dict(zip(names, _run(self._session, names, {"xray": xrays}), strict=True))

    def predict(self, xrays: NDArray[np.uint8]) -> Prediction:
        """Run X-rays, uint8 (N, size, size), through preprocessing and network."""
        found = self.run(self._answered, xrays)
        return Prediction(found["logits"], found["probabilities"], found.get("novelty"))

    def answer(self, xray: NDArray[np.uint8]) -> Answer:
        """Return what is said of one X-ray, uint8 (size, size)."""
        return self.answers([xray])[0]

    def answers(self, xrays: Sequence[NDArray[np.uint8]]) -> list[Answer]:
        """Return what is said of each of some X-rays, uint8 (size, size), that run together."""
        if not xrays:
            return []
        found = self.predict(xrays[0][None] if len(xrays) == 1 else np.stack(xrays))
        novelty = [None] * len(xrays) if found.novelty is None else found.novelty.tolist()
        return [
            self.meaning.answer(row, each)
            for row, each in zip(found.probabilities, novelty, strict=True)
        ]

    def decode(self, content: bytes) -> NDArray[np.uint8]:
        """Return the X-ray in a file, in the shape that the model takes.

        Raises:
            ImageError: the file is refused.
        """
        return decode(content, self.shape[0], *self.shape[2:])

    def views(self, xray: NDArray[np.uint8]) -> dict[str, NDArray[np.uint8]]:
        """Return what else the network is made to see of one X-ray, by name, uint8 (S, S)."""
        names = [name for name in self.outputs if name not in ANSWERED]
        found = self.run(names, xray[None]) if names else {}
        return {name: view[0] for name, view in found.items()}


def open_model(
    models: Path, name: str, provider: str = "auto", threads: int = 0, kind: str = "pipeline"
) -> Predictor:
    """Open the proven pipeline of a model, or the one of a lower precision: `fp16` or `int8`.

    Raises:
        ManifestError: no such model, or a manifest of another schema.
        ModelRefusedError: not exported, a hash that does not match, or not proven equal.
        ProviderError: the provider cannot be had.
        MissingExtraError: ONNX Runtime is not installed, or twice.
    """
    files = ModelFiles(models, name)
    return open_pipeline(files, manifest.load(files.manifest), provider, threads, kind)


def open_pipeline(
    files: ModelFiles,
    record: manifest.Manifest,
    provider: str = "auto",
    threads: int = 0,
    kind: str = "pipeline",
) -> Predictor:
    """Open the proven pipeline of a model whose manifest was read already.

    Raises:
        ToolkitError: as `open_model` does, but for the manifest.
    """
    digest = check_equivalence(files, record, kind)
    path = files.path(kind)
    predictor = Predictor(record.name, meaning_of(record), path, digest, provider, threads)
    check_words(predictor.words, files, record, kind)
    return predictor


def open_explainer(
    files: ModelFiles, record: manifest.Manifest, provider: str = "auto", threads: int = 0
) -> "PicturesModel":
    """Open the proven explainer of a model: its network with X-ray and views apart.

    Raises:
        ModelRefusedError: not exported, a hash that does not match, or not proven equal.
        ProviderError: the provider cannot be had.
    """
    check_equivalence(files, record, "explainer")
    session = open_session(files.path("explainer"), provider, threads)

    def run(pictures: Mapping[str, NDArray[np.uint8]]) -> NDArray[np.float32]:
        (logits,) = _run(session, ["logits"], dict(pictures))
        result: NDArray[np.float32] = logits
        return result

    return run


def open_file(path: Path, provider: str = "auto", threads: int = 0) -> tuple[Predictor, bool]:
    """Open a pipeline file by its path, and return it with whether its proof was checked.

    Where the manifest lies beside it, its proof must hold. A file alone has no proof; its
    classes come from its own metadata.

    Raises:
        ModelRefusedError: no such file, not a pipeline graph, or a proof that does not hold.
    """
    if not path.is_file():
        raise ModelRefusedError(f"no model file at {path}: check the path")
    kind = kind_of(path.name)
    if kind in PIPELINES:
        files = located(str(path), path.parent)
        if files.manifest.exists():
            return open_model(files.folder, files.name, provider, threads, kind), True
    session = open_session(path, "cpu", threads)
    if [each.name for each in session.get_inputs()] != ["xray"]:
        raise ModelRefusedError(f"{path} does not take X-rays: give NAME.pipeline.onnx")
    properties = session.get_modelmeta().custom_metadata_map
    try:
        grades = tuple(tuple(each) for each in json.loads(properties.get("grades", "[]")))
        meaning = Meaning(tuple(json.loads(properties["classes"])), grades)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelRefusedError(f"{path} does not name its classes: export it again") from error
    name = properties.get("name", path.stem)
    return Predictor(name, meaning, path, sha256(path), provider, threads), False


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


def _run(session: Any, names: list[str], feed: dict[str, Any]) -> list[Any]:
    try:
        values: list[Any] = session.run(names, feed)
    except Exception as error:
        reason = str(error).partition("\n")[0]
        provider = session.get_providers()[0]
        raise ProviderError(f"ONNX Runtime failed on {provider}: {reason}") from error
    return values


def _providers(onnxruntime: Any, provider: str, options: Mapping[str, str]) -> list[Any]:
    if provider not in ("auto", *PROVIDERS):
        raise ProviderError(f"no provider is called {provider!r}: choose auto, cpu or cuda")
    cuda = PROVIDERS["cuda"] in onnxruntime.get_available_providers()
    if provider == "cuda" and not cuda:
        raise ProviderError(
            "CUDA was asked for and this ONNX Runtime has none: pip install 'toolkit[gpu]', or "
            "ask for cpu"
        )
    if provider == "cpu" or (provider == "auto" and not has_cuda()):
        return [PROVIDERS["cpu"]]
    if hasattr(onnxruntime, "preload_dlls"):
        # It prints what it does not find, on stdout.
        with redirect_stdout(StringIO()):
            onnxruntime.preload_dlls()
    return [(PROVIDERS["cuda"], dict(options)), PROVIDERS["cpu"]]
