"""Opens a model that carries its proof, and says what it makes of X-rays."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from numpy.typing import NDArray

from toolkit.errors import ModelRefusedError
from toolkit.files import sha256
from toolkit.model import manifest
from toolkit.model.answer import Answer, Meaning, meaning_of
from toolkit.model.artifacts import check_equivalence, check_words
from toolkit.model.files import PIPELINES, ModelFiles, kind_of, located
from toolkit.runtime.engine import INPUT, Engine, Outputs, Xrays, open_engine
from toolkit.runtime.providers import open_session, run_session
from toolkit.xray.labels import KELLGREN_LAWRENCE
from toolkit.xray.reading import decode

if TYPE_CHECKING:
    from toolkit.runtime.occlusion import PicturesModel

ANSWERED = ("logits", "probabilities", "novelty")
"""What of a pipeline's outputs an answer is made of; the others are views."""


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
        engine: what runs it.

    Examples:
        >>> from pathlib import Path
        >>> from toolkit import open_model, read_xray
        >>> predictor = open_model(Path("saved_models"), "model_saved", "cpu")
        >>> answer = predictor.answer(read_xray(Path("knee.png")))
        >>> answer.label, answer.class_index
        ('severe', 3)
    """

    def __init__(self, name: str, meaning: Meaning, digest: str, engine: Engine) -> None:
        self.name = name
        self.meaning = meaning
        self.sha256 = digest
        self.engine = engine
        self.outputs = engine.outputs
        self.shape = tuple(engine.shapes[INPUT][1])
        self.provider = engine.provider
        self.words = engine.words
        self._decisive = [name for name in ("probabilities", "novelty") if name in self.outputs]

    def run(self, names: list[str], xrays: NDArray[np.uint8]) -> Outputs:
        """Return some of `outputs` of X-rays, uint8 (N, size, size), each (N, ...).

        Raises:
            ProviderError: ONNX Runtime failed.
        """
        return self.engine.run(names, xrays)

    def predict(self, xrays: NDArray[np.uint8]) -> Prediction:
        """Run X-rays, uint8 (N, size, size), through preprocessing and network."""
        found = self.run(["logits", *self._decisive], xrays)
        return Prediction(found["logits"], found["probabilities"], found.get("novelty"))

    def answer(self, xray: NDArray[np.uint8]) -> Answer:
        """Return what is said of one X-ray, uint8 (size, size)."""
        return self.answers([xray])[0]

    def answers(self, xrays: Sequence[NDArray[np.uint8]]) -> list[Answer]:
        """Return what is said of each of some X-rays, uint8 (size, size), that run together."""
        return self._said(self.engine.run(self._decisive, xrays)) if len(xrays) else []

    def submit(self, xrays: Xrays, then: Callable[[list[Answer] | Exception], None]) -> None:
        """Call `then` with what is said of each of some X-rays, or with what went wrong.

        It may be called before this returns, or later and by another thread.
        """

        def say(found: Outputs | Exception) -> None:
            then(found if isinstance(found, Exception) else self._said(found))

        if len(xrays):
            self.engine.submit(self._decisive, xrays, say)
        else:
            then([])

    def _said(self, found: Outputs) -> list[Answer]:
        probabilities = found["probabilities"]
        novelty = found["novelty"].tolist() if "novelty" in found else [None] * len(probabilities)
        return [
            self.meaning.answer(row, each) for row, each in zip(probabilities, novelty, strict=True)
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
    models: Path,
    name: str,
    provider: str = "auto",
    threads: int = 0,
    kind: str = "pipeline",
    opener: Callable[[Path, str, int], Engine] = open_engine,
) -> Predictor:
    """Open the proven pipeline of a model, or the one of a lower precision: `fp16` or `int8`.

    Args:
        models: the folder.
        name: of the model.
        provider: `cpu`, `cuda`, or `auto` for CUDA where it can be had.
        threads: for one operator; 0 is one for each core that this process may use.
        kind: of its files.
        opener: opens what runs that file, from its path, the provider and the threads.

    Raises:
        ManifestError: no such model, or a manifest of another schema.
        ModelRefusedError: not exported, a hash that does not match, or not proven equal.
        ProviderError: the provider cannot be had.
        MissingExtraError: ONNX Runtime is not installed, or twice.
    """
    files = ModelFiles(models, name)
    return open_pipeline(files, manifest.load(files.manifest), provider, threads, kind, opener)


def open_pipeline(
    files: ModelFiles,
    record: manifest.Manifest,
    provider: str = "auto",
    threads: int = 0,
    kind: str = "pipeline",
    opener: Callable[[Path, str, int], Engine] = open_engine,
) -> Predictor:
    """Open the proven pipeline of a model whose manifest was read already; see `open_model`.

    Raises:
        ToolkitError: as `open_model` does, but for the manifest.
    """
    digest = check_equivalence(files, record, kind)
    engine = opener(files.path(kind), provider, threads)
    predictor = Predictor(record.name, meaning_of(record), digest, engine)
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
        (logits,) = run_session(session, ["logits"], dict(pictures))
        result: NDArray[np.float32] = logits
        return result

    return run


def open_file(
    path: Path,
    provider: str = "auto",
    threads: int = 0,
    opener: Callable[[Path, str, int], Engine] = open_engine,
) -> tuple[Predictor, bool]:
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
            return open_model(files.folder, files.name, provider, threads, kind, opener), True
    session = open_session(path, "cpu", threads)
    if [each.name for each in session.get_inputs()] != ["xray"]:
        raise ModelRefusedError(f"{path} does not take X-rays: give NAME.pipeline.onnx")
    properties, decoded = session.get_modelmeta().custom_metadata_map, msgspec.json.decode
    try:
        classes = decoded(properties["classes"], type=tuple[str, ...])
        grades = decoded(properties.get("grades", "[]"), type=tuple[tuple[int | float, ...], ...])
        scale = properties.get("scale", KELLGREN_LAWRENCE)
    except (KeyError, ValueError) as error:
        raise ModelRefusedError(f"{path} does not name its classes: export it again") from error
    name, meaning = properties.get("name", path.stem), Meaning(classes, grades, scale=scale)
    return Predictor(name, meaning, sha256(path), opener(path, provider, threads)), False
